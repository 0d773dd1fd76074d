//! Waiting for the store where nothing can be awaited: functions are called on the threads of the host.

use std::future::Future;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use datafusion::common::{DataFusionError, Result, exec_err};

/// For how long a store may be waited for: longer than its own deadlines, so that its errors are the ones that are seen.
const DEADLINE: Duration = Duration::from_secs(600);

/// Runs something on a thread and a runtime of its own, so that it neither needs nor blocks the tasks of the caller's.
///
/// # Errors
/// Of the work; `Execution` when it panics or takes ten minutes.
pub(crate) fn wait<T, F>(work: F) -> Result<T>
where
    T: Send + 'static,
    F: Future<Output = Result<T>> + Send + 'static,
{
    let (tell, done) = std::sync::mpsc::sync_channel(1);
    let run = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let outcome = runtime.map_err(DataFusionError::IoError).and_then(|runtime| runtime.block_on(work));
        // Nobody hears it when the deadline has passed.
        _ = tell.send(outcome);
    };
    std::thread::Builder::new().name("firesteel-wait".into()).spawn(run)?;
    match done.recv_timeout(DEADLINE) {
        Ok(outcome) => outcome,
        Err(RecvTimeoutError::Disconnected) => {
            exec_err!("the thread that waits for the model store panicked")
        }
        Err(RecvTimeoutError::Timeout) => {
            exec_err!("the model store has not answered for {} s", DEADLINE.as_secs())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_is_done_inside_a_runtime_too_and_a_panic_is_an_error() {
        let work = async {
            tokio::task::yield_now().await;
            Ok(7)
        };
        assert_eq!(wait(work).unwrap(), 7);
        let failed = wait::<(), _>(async { panic!("on purpose") }).unwrap_err();
        assert!(failed.to_string().contains("panicked"), "{failed}");
    }
}
