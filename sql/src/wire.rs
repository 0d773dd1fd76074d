//! Our nodes and operators as bytes, for engines that send plans to other machines.
//!
//! A node travels with the version that its model was given where the query was planned, so that no other machine gives
//! it another. An operator travels with the whole entry of that version and needs no look at the log. Neither carries
//! weights: whoever executes reads them from the store that it was given.

use std::sync::Arc;

use datafusion::common::{DataFusionError, Result, internal_err, plan_err};
use datafusion::logical_expr::{LogicalPlan, UserDefinedLogicalNode};
use datafusion::physical_plan::ExecutionPlan;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::about::About;
use crate::job::{Job, JobExec, MlJob};
use crate::models::Models;
use crate::name::ModelName;
use crate::predict::{MlPredict, PredictExec, PredictSettings};
use crate::store::{VersionEntry, WorkFolder};

/// In front of what is ours; no message of protobuf starts so. The number changes with what follows.
const TAG: &[u8] = b"firesteel/2\n";

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Node {
    Predict { model: ModelName, version: u64, about: Box<About>, settings: PredictSettings },
    Job { folder: WorkFolder, job: Job },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Operator {
    Predict { entry: Box<VersionEntry>, settings: PredictSettings },
    Job { folder: WorkFolder, job: Job },
}

/// A logical node; none when it is neither `ML.PREDICT` or one like it, nor a job of a training.
///
/// # Errors
/// `Internal` when it has not got its version yet.
pub fn encode_node(node: &dyn UserDefinedLogicalNode) -> Result<Option<Vec<u8>>> {
    if let Some(node) = node.as_any().downcast_ref::<MlJob>() {
        let (folder, job) = node.parts();
        return encode(&Node::Job { folder: folder.clone(), job: job.clone() }).map(Some);
    }
    let Some(node) = node.as_any().downcast_ref::<MlPredict>() else { return Ok(None) };
    let Some(version) = node.version else {
        return internal_err!("the version of model {} was not settled before it was sent", node.model);
    };
    let (about, settings) = (Box::new(About::clone(&node.about)), node.settings.clone());
    encode(&Node::Predict { model: node.model.clone(), version, about, settings }).map(Some)
}

/// What [`encode_node`] wrote; none when it was somebody else.
///
/// # Errors
/// `Plan` when another release of Firesteel wrote it.
pub fn decode_node(bytes: &[u8], inputs: &[LogicalPlan]) -> Result<Option<Arc<dyn UserDefinedLogicalNode>>> {
    let Some(node) = decode(bytes)? else { return Ok(None) };
    let [input] = inputs else { return internal_err!("a node of Firesteel has one input") };
    let input = input.clone();
    Ok(Some(match node {
        Node::Predict { model, version, about, settings } => {
            let (input, about) = (Arc::new(input), Arc::from(about));
            Arc::new(MlPredict::new(input, model, Some(version), about, settings)?)
        }
        Node::Job { folder, job } => Arc::new(MlJob::new(input, folder, job)?),
    }))
}

/// An operator; none when it is neither that of `ML.PREDICT` nor of a job.
///
/// # Errors
/// `External` of the serialiser.
pub fn encode_operator(operator: &Arc<dyn ExecutionPlan>) -> Result<Option<Vec<u8>>> {
    if let Some(job) = operator.downcast_ref::<JobExec>() {
        let (folder, job) = job.parts();
        return encode(&Operator::Job { folder: folder.clone(), job: job.clone() }).map(Some);
    }
    let Some(predict) = operator.downcast_ref::<PredictExec>() else { return Ok(None) };
    let (entry, settings) = predict.parts();
    encode(&Operator::Predict { entry: Box::new(entry.clone()), settings: settings.clone() }).map(Some)
}

/// What [`encode_operator`] wrote; none when it was somebody else.
///
/// # Errors
/// `Plan` when another release of Firesteel wrote it.
pub fn decode_operator(
    bytes: &[u8],
    inputs: &[Arc<dyn ExecutionPlan>],
    models: &Arc<Models>,
) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    let Some(operator) = decode(bytes)? else { return Ok(None) };
    let [input] = inputs else { return internal_err!("an operator of Firesteel has one input") };
    let (input, models) = (input.clone(), models.clone());
    Ok(Some(match operator {
        Operator::Predict { entry, settings } => {
            Arc::new(PredictExec::of_version(input, Arc::from(entry), settings, models)?)
        }
        Operator::Job { folder, job } => Arc::new(JobExec::new(input, folder, job, models)),
    }))
}

fn encode(message: &impl Serialize) -> Result<Vec<u8>> {
    let mut bytes = TAG.to_vec();
    serde_json::to_writer(&mut bytes, message).map_err(|e| DataFusionError::External(e.into()))?;
    Ok(bytes)
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<Option<T>> {
    if let Some(message) = bytes.strip_prefix(TAG) {
        let read = serde_json::from_slice(message);
        return read.map(Some).or_else(|e| plan_err!("a plan of Firesteel cannot be read: {e}"));
    }
    let (name, version) = TAG.split_at(TAG.len() - 2);
    if bytes.starts_with(name) {
        return plan_err!(
            "a plan was made by another release of Firesteel; this one reads version {}",
            String::from_utf8_lossy(version).trim_end()
        );
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use datafusion::logical_expr::Extension;
    use datafusion::prelude::SessionContext;

    use super::*;
    use crate::job::Look;
    use crate::{Firesteel, ModelStore};

    async fn session(folder: &std::path::Path) -> (SessionContext, Firesteel) {
        let context = SessionContext::new();
        let firesteel = Firesteel::register(&context, ModelStore::directory(folder).unwrap()).await.unwrap();
        (context, firesteel)
    }

    fn predict(plan: &LogicalPlan) -> Option<Arc<dyn UserDefinedLogicalNode>> {
        match plan {
            LogicalPlan::Extension(Extension { node }) => Some(node.clone()),
            plan => plan.inputs().into_iter().find_map(predict),
        }
    }

    fn operator(plan: &Arc<dyn ExecutionPlan>) -> Option<Arc<dyn ExecutionPlan>> {
        match plan.is::<PredictExec>() {
            true => Some(plan.clone()),
            false => plan.children().into_iter().find_map(operator),
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn nodes_and_operators_come_back_as_they_were_sent() {
        let folder = tempfile::tempdir().unwrap();
        let (context, firesteel) = session(folder.path()).await;
        // A session from before the model was there.
        let (_, elsewhere) = session(folder.path()).await;
        let train = "CREATE MODEL m OPTIONS (model_type = 'logistic_reg', input_label_cols = ['y'], max_iterations = 1)
             AS SELECT value AS x, value > 10 AS y FROM generate_series(1, 50)";
        firesteel.sql(train).await.unwrap();
        let sql = "SELECT * FROM ML.PREDICT(MODEL m, (SELECT value AS x FROM generate_series(1, 30)),
             threshold => 0.3, top_k => 1)";
        let plan = firesteel.sql(sql).await.unwrap().into_optimized_plan().unwrap();
        let node = predict(&plan).unwrap();

        let bytes = encode_node(node.as_ref()).unwrap().unwrap();
        let inputs: Vec<LogicalPlan> = node.inputs().into_iter().cloned().collect();
        let back = decode_node(&bytes, &inputs).unwrap().unwrap();
        let (sent, got) = (node.as_any().downcast_ref(), back.as_any().downcast_ref::<MlPredict>());
        let (sent, got): (&MlPredict, _) = (sent.unwrap(), got.unwrap());
        assert_eq!((&sent.about, &sent.settings, sent.version), (&got.about, &got.settings, got.version));
        assert_eq!(sent.schema, got.schema);
        assert_eq!(got.asked, Some(1), "a version that was given stays given");

        // Each runs once: plans do not run twice.
        let physical = async || context.state().create_physical_plan(&plan).await.unwrap();
        let exec = operator(&physical().await).unwrap();
        let bytes = encode_operator(&exec).unwrap().unwrap();
        let inputs: Vec<_> = exec.children().into_iter().cloned().collect();
        let back = decode_operator(&bytes, &inputs, elsewhere.models()).unwrap().unwrap();
        assert_eq!(back.schema(), exec.schema());
        let rows = |plan| datafusion::physical_plan::collect(plan, context.task_ctx());
        let here = operator(&physical().await).unwrap();
        assert_eq!(rows(back).await.unwrap(), rows(here).await.unwrap());
    }

    #[tokio::test]
    async fn jobs_come_back_as_they_were_sent() {
        let folder = tempfile::tempdir().unwrap();
        let (context, firesteel) = session(folder.path()).await;
        let input = context.sql("SELECT 1 AS x").await.unwrap().into_optimized_plan().unwrap();
        let look = Look { features: Vec::new(), label: Some("y".into()), classifier: true };
        for job in
            [Job::Work, Job::Deal { look: None, strands: 1 }, Job::Deal { look: Some(look), strands: 7 }]
        {
            let work = WorkFolder::new(&ModelName::bare("m"));
            let node = MlJob::new(input.clone(), work.clone(), job.clone()).unwrap();
            let bytes = encode_node(&node).unwrap().unwrap();
            let back = decode_node(&bytes, std::slice::from_ref(&input)).unwrap().unwrap();
            assert_eq!(back.as_any().downcast_ref(), Some(&node));

            let rows = context.state().create_physical_plan(&input).await.unwrap();
            let models = firesteel.models().clone();
            let exec: Arc<dyn ExecutionPlan> = Arc::new(JobExec::new(rows.clone(), work, job, models));
            let bytes = encode_operator(&exec).unwrap().unwrap();
            let back = decode_operator(&bytes, &[rows], firesteel.models()).unwrap().unwrap();
            let parts = |exec: &Arc<dyn ExecutionPlan>| {
                format!("{:?}", exec.downcast_ref::<JobExec>().unwrap().parts())
            };
            assert_eq!(parts(&back), parts(&exec));
        }
    }

    #[test]
    fn what_others_wrote_is_left_to_them_and_another_release_is_an_error() {
        assert!(decode_node(b"\x0a\x03abc", &[]).unwrap().is_none());
        let e = decode_node(b"firesteel/9\n{}", &[]).unwrap_err().to_string();
        assert!(e.contains("another release of Firesteel"), "{e}");
        let e = decode_node(b"firesteel/2\n{\"model\": 3}", &[]).unwrap_err().to_string();
        assert!(e.contains("cannot be read"), "{e}");
        assert!(decode_node(b"", &[]).unwrap().is_none());
    }
}
