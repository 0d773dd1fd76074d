//! Renames: one decision over two logs.

use datafusion::error::{DataFusionError, Result};
use ulid::Ulid;

use super::ModelStore;
use super::commit::{Action, Adoption};
use crate::ModelName;

/// How often to start again when one of the logs moved on.
const ATTEMPTS: usize = 20;

impl ModelStore {
    /// Gives a model another name, with all its versions and their numbers. Atomic: everybody sees the one name or the
    /// other, also when the writer dies in between.
    pub async fn rename(&self, from: &ModelName, to: &ModelName) -> Result<()> {
        for _ in 0..ATTEMPTS {
            if self.try_rename(from, to).await? {
                return Ok(());
            }
        }
        Err(DataFusionError::Execution(format!(
            "other sessions keep changing model '{from}' or '{to}'; try again"
        )))
    }

    /// False when somebody else changed one of the models.
    async fn try_rename(&self, from: &ModelName, to: &ModelName) -> Result<bool> {
        let source = self.decided(from).await?;
        let Some(model) = source.live()? else { return Err(self.not_found(from).await) };
        let target = self.decided(to).await?;
        if target.live()?.is_some() {
            return Err(DataFusionError::Plan(format!("model '{to}' already exists")));
        }
        let transfer = Ulid::new().to_string();
        let adoption = Adoption {
            source: from.clone(),
            source_sequence: source.head + 1,
            transfer: transfer.clone(),
            state: model.clone(),
        };
        let Some(target) = self.put(&target, Action::Adopt(Box::new(adoption))).await? else {
            return Ok(false);
        };
        let rename = Action::Rename { target: to.clone(), target_sequence: target.head, transfer };
        Ok(self.put(&source, rename).await?.is_some())
    }
}
