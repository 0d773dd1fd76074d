//! The native methods of `firesteel.ml.Native`.

use std::sync::Mutex;

use firesteel_comm::Listener;
use firesteel_error::Error;
use firesteel_model::Network;
use jni::objects::{JClass, JLongArray, JString};
use jni::sys::{jint, jlong};
use jni::{Env, NativeMethod, native_method};

use crate::columns::ColumnBatch;
use crate::error::{self, Fault, Throw};
use crate::registry;

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
    native!(listener_open(host: JString) -> jlong),
    native!(listener_port(listener: jlong) -> jint),
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
