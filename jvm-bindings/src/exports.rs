//! The native methods of `firesteel.ml.Native`.

use std::sync::Mutex;

use firesteel_error::Error;
use jni::objects::{JClass, JLongArray, JString};
use jni::sys::{jint, jlong};
use jni::{Env, NativeMethod, native_method};

use crate::columns::ColumnBatch;
use crate::error::{self, Fault, Throw};
use crate::registry;

type Outcome<T> = Result<T, Fault>;

/// Every function that the JVM can call, by the names it knows them.
pub const EXPORTS: &[NativeMethod] = &[
    native_method! { java_type = "firesteel.ml.Native", error_policy = Throw, static extern fn version() -> JString },
    native_method! { java_type = "firesteel.ml.Native", error_policy = Throw, static extern fn open_handles() -> jlong },
    native_method! { java_type = "firesteel.ml.Native", error_policy = Throw, static extern fn fail(how: JString) },
    native_method! { java_type = "firesteel.ml.Native", error_policy = Throw, static extern fn close(handle: jlong) },
    native_method! { java_type = "firesteel.ml.Native", error_policy = Throw, static extern fn batch_new(columns: JString, capacity: jint) -> jlong },
    native_method! { java_type = "firesteel.ml.Native", error_policy = Throw, static extern fn batch_addresses(batch: jlong) -> jlong[] },
    native_method! { java_type = "firesteel.ml.Native", error_policy = Throw, static extern fn batch_reserve(batch: jlong, column: jint, bytes: jlong) -> jlong },
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
