//! The native methods of `firesteel.ml.Native`.

use std::sync::Mutex;
use std::time::Duration;

use firesteel_comm::Listener;
use firesteel_error::Error;
use firesteel_model::Network;
use firesteel_train::TrainConfig;
use jni::objects::{JByteArray, JClass, JLongArray, JObjectArray, JString};
use jni::sys::{jint, jlong};
use jni::{Env, NativeMethod, native_method};

use crate::columns::ColumnBatch;
use crate::error::{self, Fault, Throw};
use crate::registry;
use crate::scoring::{OpenModel, Scorer};
use crate::training::{LocalShard, Training};

type Outcome<T> = Result<T, Fault>;

/// One row of the table.
macro_rules! native {
    ($($signature:tt)*) => {
        native_method! {
            java_type = "firesteel.ml.Native",
            error_policy = Throw,
            static extern fn $($signature)*
        }
    };
}

/// Every function that the JVM can call, by the names it knows them.
pub const EXPORTS: &[NativeMethod] = &[
    native!(version() -> JString),
    native!(open_handles() -> jlong),
    native!(fail(how: JString)),
    native!(close(handle: jlong)),
    native!(batch_new(columns: JString, capacity: jint) -> jlong),
    native!(batch_addresses(batch: jlong) -> jlong[]),
    native!(batch_reserve(batch: jlong, column: jint, bytes: jlong) -> jlong),
    native!(check_network(network: JString)),
    native!(check_config(config: JString)),
    native!(check_workers(config: JString, workers: jint)),
    native!(checkpoint_key(config: JString) -> JString),
    native!(listener_open(host: JString) -> jlong),
    native!(listener_port(listener: jlong) -> jint),
    native!(shard_new(config: JString, rank: jint, gpus: JString[]) -> jlong),
    native!(shard_push(shard: jlong, batch: jlong, rows: jint)),
    native!(train_start(shard: jlong, listener: jlong, config: JString, world: JString, resume: jbyte[]) -> jlong),
    native!(train_poll(training: jlong, millis: jint) -> JString[]),
    native!(train_cancel(training: jlong)),
    native!(train_checkpoint(training: jlong) -> jbyte[]),
    native!(train_files(training: jlong) -> JString[]),
    native!(train_file(training: jlong, name: JString) -> jbyte[]),
    native!(model_open(names: JString[], files: jbyte[][]) -> jlong),
    native!(model_info(model: jlong) -> JString),
    native!(scorer_new(model: jlong, settings: JString) -> jlong),
    native!(scorer_run(scorer: jlong, batch: jlong, rows: jint) -> jlong[]),
];

fn version<'l>(env: &mut Env<'l>, _: JClass<'l>) -> Outcome<JString<'l>> {
    error::install_panic_hook();
    Ok(env.new_string(env!("CARGO_PKG_VERSION"))?)
}

fn open_handles<'l>(_: &mut Env<'l>, _: JClass<'l>) -> Outcome<jlong> {
    Ok(registry::count() as jlong)
}

fn fail<'l>(env: &mut Env<'l>, _: JClass<'l>, how: JString<'l>) -> Outcome<()> {
    Ok(error::fail(&text(env, &how)?)?)
}

fn close<'l>(_: &mut Env<'l>, _: JClass<'l>, handle: jlong) -> Outcome<()> {
    registry::close(handle);
    Ok(())
}

fn batch_new<'l>(env: &mut Env<'l>, _: JClass<'l>, columns: JString<'l>, capacity: jint) -> Outcome<jlong> {
    let columns = parse(&text(env, &columns)?, "columns")?;
    let batch = ColumnBatch::new(columns, usize::try_from(capacity).unwrap_or(0))?;
    Ok(registry::open(Mutex::new(batch)))
}

fn batch_addresses<'l>(env: &mut Env<'l>, _: JClass<'l>, batch: jlong) -> Outcome<JLongArray<'l>> {
    let batch = registry::get::<Mutex<ColumnBatch>>(batch)?;
    let addresses = registry::lock(&batch).addresses();
    longs(env, &addresses)
}

fn batch_reserve<'l>(
    _: &mut Env<'l>,
    _: JClass<'l>,
    batch: jlong,
    column: jint,
    bytes: jlong,
) -> Outcome<jlong> {
    let batch = registry::get::<Mutex<ColumnBatch>>(batch)?;
    let mut batch = registry::lock(&batch);
    let column = usize::try_from(column).unwrap_or(usize::MAX);
    Ok(batch.reserve(column, usize::try_from(bytes).unwrap_or(usize::MAX))?)
}

fn check_network<'l>(env: &mut Env<'l>, _: JClass<'l>, network: JString<'l>) -> Outcome<()> {
    Network::from_json(&text(env, &network)?)?;
    Ok(())
}

/// Refuses what a training would refuse before it looks at a row.
fn check_config<'l>(env: &mut Env<'l>, _: JClass<'l>, config: JString<'l>) -> Outcome<()> {
    TrainConfig::from_json(&text(env, &config)?)?.check()?;
    Ok(())
}

/// Refuses a number of workers that a training cannot have.
fn check_workers<'l>(env: &mut Env<'l>, _: JClass<'l>, config: JString<'l>, workers: jint) -> Outcome<()> {
    let config = TrainConfig::from_json(&text(env, &config)?)?;
    Ok(config.params.check_workers(usize::try_from(workers).unwrap_or(0))?)
}

/// A name for the checkpoints of this training: another training has another.
fn checkpoint_key<'l>(env: &mut Env<'l>, _: JClass<'l>, config: JString<'l>) -> Outcome<JString<'l>> {
    let config = TrainConfig::from_json(&text(env, &config)?)?;
    Ok(env.new_string(firesteel_train::checkpoint_key(&config)?)?)
}

/// A listener until training takes it.
type Socket = Mutex<Option<Listener>>;

fn listener_open<'l>(env: &mut Env<'l>, _: JClass<'l>, host: JString<'l>) -> Outcome<jlong> {
    let listener = Listener::bind(&format!("{}:0", text(env, &host)?))?;
    Ok(registry::open::<Socket>(Mutex::new(Some(listener))))
}

fn listener_port<'l>(_: &mut Env<'l>, _: JClass<'l>, listener: jlong) -> Outcome<jint> {
    let listener = registry::get::<Socket>(listener)?;
    let listener = registry::lock(&listener);
    let listener = listener.as_ref().ok_or_else(|| Error::argument("training has taken the listener"))?;
    Ok(listener.local_addr()?.port().into())
}

/// A shard until training takes it.
type Rows = Mutex<Option<LocalShard>>;

fn shard_new<'l>(
    env: &mut Env<'l>,
    _: JClass<'l>,
    config: JString<'l>,
    rank: jint,
    gpus: JObjectArray<'l, JString<'l>>,
) -> Outcome<jlong> {
    let config = TrainConfig::from_json(&text(env, &config)?)?;
    let mut given = Vec::new();
    for at in 0..gpus.len(env)? {
        let gpu = gpus.get_element(env, at)?;
        given.push(text(env, &gpu)?);
    }
    let shard = LocalShard::new(&config, usize::try_from(rank).unwrap_or(usize::MAX), &given)?;
    Ok(registry::open::<Rows>(Mutex::new(Some(shard))))
}

fn shard_push<'l>(_: &mut Env<'l>, _: JClass<'l>, shard: jlong, batch: jlong, rows: jint) -> Outcome<()> {
    let (shard, batch) = (registry::get::<Rows>(shard)?, registry::get::<Mutex<ColumnBatch>>(batch)?);
    let batch = registry::lock(&batch).take(count(rows)?)?;
    let mut shard = registry::lock(&shard);
    let shard = shard.as_mut().ok_or_else(|| Error::argument("training has taken the shard"))?;
    Ok(shard.rows.push(&batch)?)
}

fn train_start<'l>(
    env: &mut Env<'l>,
    _: JClass<'l>,
    shard: jlong,
    listener: jlong,
    config: JString<'l>,
    world: JString<'l>,
    resume: JByteArray<'l>,
) -> Outcome<jlong> {
    let config = TrainConfig::from_json(&text(env, &config)?)?;
    let world = parse(&text(env, &world)?, "workers")?;
    let resume = if resume.is_null() { None } else { Some(env.convert_byte_array(&resume)?) };
    let (shard, listener) = (registry::get::<Rows>(shard)?, registry::get::<Socket>(listener)?);
    let taken = || Error::argument("training has taken the shard and the listener");
    let shard = registry::lock(&shard).take().ok_or_else(taken)?;
    let listener = registry::lock(&listener).take().ok_or_else(taken)?;
    Ok(registry::open(Training::start(config, shard, listener, world, resume)?))
}

fn train_poll<'l>(
    env: &mut Env<'l>,
    _: JClass<'l>,
    training: jlong,
    millis: jint,
) -> Outcome<JObjectArray<'l, JString<'l>>> {
    let wait = Duration::from_millis(u64::try_from(millis).unwrap_or(0));
    match registry::get::<Training>(training)?.poll(wait)? {
        Some(events) => texts(env, &events),
        None => Ok(JObjectArray::<JString>::null()),
    }
}

fn train_cancel<'l>(_: &mut Env<'l>, _: JClass<'l>, training: jlong) -> Outcome<()> {
    registry::get::<Training>(training)?.cancel();
    Ok(())
}

fn train_checkpoint<'l>(env: &mut Env<'l>, _: JClass<'l>, training: jlong) -> Outcome<JByteArray<'l>> {
    match registry::get::<Training>(training)?.checkpoint() {
        Some(bytes) => array(env, &bytes, "checkpoint"),
        None => Ok(JByteArray::null()),
    }
}

fn train_files<'l>(
    env: &mut Env<'l>,
    _: JClass<'l>,
    training: jlong,
) -> Outcome<JObjectArray<'l, JString<'l>>> {
    texts(env, &registry::get::<Training>(training)?.file_names()?)
}

fn train_file<'l>(
    env: &mut Env<'l>,
    _: JClass<'l>,
    training: jlong,
    name: JString<'l>,
) -> Outcome<JByteArray<'l>> {
    let name = text(env, &name)?;
    let bytes = registry::get::<Training>(training)?.take_file(&name)?;
    array(env, &bytes, &name)
}

fn model_open<'l>(
    env: &mut Env<'l>,
    _: JClass<'l>,
    names: JObjectArray<'l, JString<'l>>,
    files: JObjectArray<'l, JByteArray<'l>>,
) -> Outcome<jlong> {
    let mut read = Vec::new();
    for at in 0..names.len(env)? {
        let name = names.get_element(env, at)?;
        let file = files.get_element(env, at)?;
        read.push((text(env, &name)?, env.convert_byte_array(&file)?));
    }
    Ok(registry::open(OpenModel::new(&read)?))
}

fn model_info<'l>(env: &mut Env<'l>, _: JClass<'l>, model: jlong) -> Outcome<JString<'l>> {
    Ok(env.new_string(registry::get::<OpenModel>(model)?.info()?)?)
}

fn scorer_new<'l>(env: &mut Env<'l>, _: JClass<'l>, model: jlong, settings: JString<'l>) -> Outcome<jlong> {
    let scorer = registry::get::<OpenModel>(model)?.scorer(&text(env, &settings)?)?;
    Ok(registry::open(Mutex::new(scorer)))
}

fn scorer_run<'l>(
    env: &mut Env<'l>,
    _: JClass<'l>,
    scorer: jlong,
    batch: jlong,
    rows: jint,
) -> Outcome<JLongArray<'l>> {
    let (scorer, batch) =
        (registry::get::<Mutex<Scorer>>(scorer)?, registry::get::<Mutex<ColumnBatch>>(batch)?);
    let batch = registry::lock(&batch).take(count(rows)?)?;
    let addresses = registry::lock(&scorer).run(&batch)?;
    longs(env, &addresses)
}

fn count(rows: jint) -> Outcome<usize> {
    usize::try_from(rows).map_err(|_| Error::argument(format!("{rows} rows")).into())
}

fn text<'l>(env: &Env<'l>, text: &JString<'l>) -> Outcome<String> {
    if text.is_null() {
        return Err(Error::argument("a text is null").into());
    }
    Ok(text.try_to_string(env)?)
}

fn longs<'l>(env: &mut Env<'l>, values: &[i64]) -> Outcome<JLongArray<'l>> {
    let array = env.new_long_array(values.len())?;
    array.set_region(env, 0, values)?;
    Ok(array)
}

fn parse<T: serde::de::DeserializeOwned>(json: &str, what: &str) -> Outcome<T> {
    serde_json::from_str(json).map_err(|e| Error::argument(format!("the {what} are not valid: {e}")).into())
}

fn texts<'l>(env: &mut Env<'l>, values: &[String]) -> Outcome<JObjectArray<'l, JString<'l>>> {
    let array = JObjectArray::<JString>::new(env, values.len(), JString::null())?;
    for (at, value) in values.iter().enumerate() {
        let value = env.new_string(value)?;
        array.set_element(env, at, &value)?;
        env.delete_local_ref(value);
    }
    Ok(array)
}

fn array<'l>(env: &mut Env<'l>, bytes: &[u8], what: &str) -> Outcome<JByteArray<'l>> {
    check_length(bytes.len(), what)?;
    Ok(env.byte_array_from_slice(bytes)?)
}

/// A Java array counts with an i32. A training that is run again would make the same bytes, so this is not worth it.
fn check_length(bytes: usize, what: &str) -> firesteel_error::Result<()> {
    if i32::try_from(bytes).is_ok() {
        return Ok(());
    }
    Err(Error::argument(format!("{what} has {bytes} bytes, more than a Java array holds ({})", i32::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_java_array_cannot_hold_is_not_tried_again() {
        check_length(i32::MAX as usize, "checkpoint").unwrap();
        let e = check_length(1 << 31, "checkpoint").unwrap_err();
        assert!(!e.kind().is_retryable());
        let found = "checkpoint has 2147483648 bytes, more than a Java array holds (2147483647)";
        assert_eq!(e.to_string(), found);
    }
}
