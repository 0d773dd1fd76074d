//! A scheduler and executors on loopback, each with a runtime of its own, as processes have.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ballista_core::config::TaskSchedulingPolicy;
use ballista_executor::executor_process::{ExecutorProcessConfig, start_executor_process};
use ballista_scheduler::cluster::BallistaCluster;
use ballista_scheduler::config::{SchedulerConfig, TaskDistributionPolicy};
use ballista_scheduler::scheduler_process::{create_scheduler, start_grpc_service_with_listener};
use datafusion_proto::protobuf::{LogicalPlanNode, PhysicalPlanNode};
use firesteel_sql::ModelStore;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

/// Warnings of the servers, on standard error.
struct Warnings;

impl log::Log for Warnings {
    fn enabled(&self, metadata: &log::Metadata) -> bool {
        metadata.level() <= log::Level::Warn
    }

    fn log(&self, record: &log::Record) {
        if self.enabled(record.metadata()) {
            eprintln!("{} {}: {}", record.level(), record.target(), record.args());
        }
    }

    fn flush(&self) {}
}

/// Servers on loopback; stopped when dropped.
pub struct Cluster {
    scheduler: SocketAddr,
    executors: Vec<Executor>,
    runtimes: Vec<Runtime>,
}

struct Executor {
    ports: [u16; 2],
    work: TempDir,
}

impl Cluster {
    /// With a store that all of them open by its folder.
    pub fn start(executors: usize, models: &Path) -> Cluster {
        if log::set_logger(&Warnings).is_ok() {
            log::set_max_level(log::LevelFilter::Warn);
        }
        let (scheduler, runtime) = scheduler(models);
        let mut cluster = Cluster { scheduler, executors: Vec::new(), runtimes: vec![runtime] };
        for number in 0..executors {
            let (executor, runtime) = executor(number, scheduler.port(), models);
            cluster.executors.push(executor);
            cluster.runtimes.push(runtime);
        }
        for port in cluster.executors.iter().flat_map(|e| e.ports) {
            within(Duration::from_secs(20), || listens(port));
        }
        cluster
    }

    pub fn url(&self) -> String {
        format!("df://127.0.0.1:{}", self.scheduler.port())
    }

    /// Of each executor the files that its tasks wrote.
    pub fn written(&self) -> Vec<usize> {
        self.executors.iter().map(|executor| files(executor.work.path())).collect()
    }

    /// Stops everything; the ports and folders that are gone then.
    pub fn stop(mut self) -> (Vec<u16>, Vec<PathBuf>) {
        let mut ports = vec![self.scheduler.port()];
        ports.extend(self.executors.iter().flat_map(|e| e.ports));
        let folders = self.executors.iter().map(|e| e.work.path().to_owned()).collect();
        self.end();
        (ports, folders)
    }

    fn end(&mut self) {
        // The executors first: they tell the scheduler nothing any more.
        while let Some(runtime) = self.runtimes.pop() {
            runtime.shutdown_timeout(Duration::from_secs(10));
        }
        self.executors.clear();
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.end();
    }
}

fn runtime(name: String) -> Runtime {
    Builder::new_multi_thread().worker_threads(2).thread_name(name).enable_all().build().unwrap()
}

fn store(models: &Path) -> ModelStore {
    ModelStore::directory(models).unwrap()
}

fn scheduler(models: &Path) -> (SocketAddr, Runtime) {
    let runtime = runtime("scheduler".into());
    let address = runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let config = SchedulerConfig {
            external_host: "127.0.0.1".into(),
            bind_port: address.port(),
            scheduling_policy: TaskSchedulingPolicy::PushStaged,
            task_distribution: TaskDistributionPolicy::RoundRobin,
            ..SchedulerConfig::default()
        };
        let config = firesteel_ballista::scheduler(config, store(models)).await.unwrap();
        let cluster = BallistaCluster::new_from_config(&config).await.unwrap();
        let scheduler =
            create_scheduler::<LogicalPlanNode, PhysicalPlanNode>(cluster, Arc::new(config)).await.unwrap();
        tokio::spawn(start_grpc_service_with_listener(listener, scheduler));
        address
    });
    (address, runtime)
}

fn executor(number: usize, scheduler: u16, models: &Path) -> (Executor, Runtime) {
    let runtime = runtime(format!("executor-{number}"));
    let (ports, work) = (free_ports(), tempfile::tempdir().unwrap());
    let config = ExecutorProcessConfig {
        port: ports[0],
        grpc_port: ports[1],
        external_host: Some("127.0.0.1".into()),
        scheduler_host: "127.0.0.1".into(),
        scheduler_port: scheduler,
        scheduler_connect_timeout_seconds: 20,
        vcores: 2,
        task_scheduling_policy: TaskSchedulingPolicy::PushStaged,
        work_dir: Some(work.path().to_str().unwrap().into()),
        ..ExecutorProcessConfig::default()
    };
    let config = runtime.block_on(firesteel_ballista::executor(config, store(models))).unwrap();
    runtime.spawn(async move { start_executor_process(Arc::new(config)).await.unwrap() });
    (Executor { ports, work }, runtime)
}

/// Two at once, so that they differ.
fn free_ports() -> [u16; 2] {
    let bound = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    bound.map(|listener| listener.local_addr().unwrap().port())
}

pub fn listens(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).is_ok()
}

fn within(limit: Duration, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < limit, "not within {limit:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn files(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| if path.is_dir() { files(&path) } else { 1 }).sum()
}
