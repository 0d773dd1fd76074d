//! Waiting for the store where nothing can be awaited: functions are called on the threads of the host.

use std::future::Future;

use datafusion::common::{DataFusionError, Result, exec_err};

/// Runs something on a thread and a runtime of its own, so that it neither needs nor blocks the tasks of the caller's.
///
/// # Errors
/// Of the work; `Execution` when it panics.
pub(crate) fn wait<T, F>(work: F) -> Result<T>
where
    T: Send + 'static,
    F: Future<Output = Result<T>> + Send + 'static,
{
    let run = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.map_err(DataFusionError::IoError)?.block_on(work)
    };
    match std::thread::Builder::new().name("firesteel-wait".into()).spawn(run)?.join() {
        Ok(done) => done,
        Err(_) => exec_err!("the thread that waits for the model store panicked"),
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
