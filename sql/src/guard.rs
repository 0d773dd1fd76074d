//! Functions for another library: a panic must not leave ours, or the host's process ends.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, FieldRef};
use datafusion::common::{Result, ScalarValue, exec_err};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs,
    ScalarUDF, ScalarUDFImpl, Signature,
};

/// The function, with an error where it would panic.
pub fn scalar(function: ScalarUDF) -> ScalarUDF {
    ScalarUDF::new_from_impl(Scalar { function })
}

/// The same for an aggregate.
pub fn aggregate(function: AggregateUDF) -> AggregateUDF {
    AggregateUDF::new_from_impl(Aggregate { function })
}

/// What a call leaves half done is behind locks that are taken whatever became of their last owner, or dropped with the
/// query that fails.
fn guard<T>(name: &str, call: impl FnOnce() -> Result<T>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(done) => done,
        Err(panic) => exec_err!("{name} panicked: {}", message(panic.as_ref())),
    }
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Scalar {
    function: ScalarUDF,
}

impl ScalarUDFImpl for Scalar {
    fn name(&self) -> &str {
        self.function.name()
    }

    fn signature(&self) -> &Signature {
        self.function.signature()
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        guard(self.name(), || self.function.return_type(types))
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        guard(self.name(), || self.function.return_field_from_args(args))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        guard(self.name(), || self.function.invoke_with_args(args))
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Aggregate {
    function: AggregateUDF,
}

impl AggregateUDFImpl for Aggregate {
    fn name(&self) -> &str {
        self.function.name()
    }

    fn signature(&self) -> &Signature {
        self.function.signature()
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        guard(self.name(), || self.function.return_type(types))
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        let name = self.name().to_owned();
        let accumulator = guard(&name, || self.function.accumulator(args))?;
        Ok(Box::new(Accumulated { name, accumulator }))
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        guard(self.name(), || self.function.state_fields(args))
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        self.function.order_sensitivity()
    }
}

#[derive(Debug)]
struct Accumulated {
    name: String,
    accumulator: Box<dyn Accumulator>,
}

impl Accumulator for Accumulated {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        guard(&self.name, || self.accumulator.update_batch(values))
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        guard(&self.name, || self.accumulator.merge_batch(states))
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        guard(&self.name, || self.accumulator.state())
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        guard(&self.name, || self.accumulator.evaluate())
    }

    fn size(&self) -> usize {
        self.accumulator.size()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::logical_expr::{Volatility, create_udaf, create_udf};
    use datafusion::prelude::SessionContext;

    use super::*;

    #[derive(Debug)]
    struct Fails;

    impl Accumulator for Fails {
        fn update_batch(&mut self, _: &[ArrayRef]) -> Result<()> {
            panic!("row {}", 7)
        }

        fn merge_batch(&mut self, _: &[ArrayRef]) -> Result<()> {
            Ok(())
        }

        fn state(&mut self) -> Result<Vec<ScalarValue>> {
            Ok(vec![ScalarValue::Int64(None)])
        }

        fn evaluate(&mut self) -> Result<ScalarValue> {
            Ok(ScalarValue::Int64(None))
        }

        fn size(&self) -> usize {
            0
        }
    }

    #[tokio::test]
    async fn a_panic_becomes_an_error_that_says_where() {
        let (int, stable) = (DataType::Int64, Volatility::Stable);
        let fails =
            create_udf("fails", vec![int.clone()], int.clone(), stable, Arc::new(|_| panic!("on purpose")));
        let state = Arc::new(vec![int.clone()]);
        let many = Arc::new(|_: AccumulatorArgs| -> Result<Box<dyn Accumulator>> { Ok(Box::new(Fails)) });
        let fails_many = create_udaf("fails_many", vec![int.clone()], Arc::new(int), stable, many, state);
        let context = SessionContext::new();
        context.register_udf(scalar(fails));
        context.register_udaf(aggregate(fails_many));
        for (sql, message) in [
            ("SELECT fails(value) FROM generate_series(1, 3)", "fails panicked: on purpose"),
            ("SELECT fails_many(value) FROM generate_series(1, 3)", "fails_many panicked: row 7"),
        ] {
            let failed = context.sql(sql).await.unwrap().collect().await.unwrap_err();
            assert!(failed.to_string().contains(message), "{failed}");
        }
    }
}
