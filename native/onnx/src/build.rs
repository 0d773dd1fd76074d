//! A graph in the making: nodes, constants, and names that stand for one value each.

use std::collections::HashSet;

use crate::proto::{
    Attribute, AttributeKind, Dimension, Element, Graph, Node, Shape, Tensor, TensorType, Type, Value,
};

/// The domain of what ONNX has for classical machine learning.
pub(crate) const ML: &str = "ai.onnx.ml";

/// What a node computes.
pub(crate) struct Operator {
    name: &'static str,
    domain: &'static str,
    attributes: Vec<Attribute>,
}

impl Operator {
    /// An operator of ONNX itself.
    pub(crate) fn new(name: &'static str) -> Operator {
        Operator { name, domain: "", attributes: Vec::new() }
    }

    /// One of [`ML`].
    pub(crate) fn ml(name: &'static str) -> Operator {
        Operator { domain: ML, ..Operator::new(name) }
    }

    pub(crate) fn int(self, name: &str, value: i64) -> Operator {
        self.with(name, AttributeKind::Int, Attribute { i: Some(value), ..Attribute::default() })
    }

    pub(crate) fn float(self, name: &str, value: f32) -> Operator {
        self.with(name, AttributeKind::Float, Attribute { f: Some(value), ..Attribute::default() })
    }

    pub(crate) fn ints(self, name: &str, values: impl IntoIterator<Item = i64>) -> Operator {
        let ints = values.into_iter().collect();
        self.with(name, AttributeKind::Ints, Attribute { ints, ..Attribute::default() })
    }

    pub(crate) fn strings<'a>(self, name: &str, values: impl IntoIterator<Item = &'a str>) -> Operator {
        let strings = values.into_iter().map(|s| s.as_bytes().to_vec()).collect();
        self.with(name, AttributeKind::Strings, Attribute { strings, ..Attribute::default() })
    }

    fn with(mut self, name: &str, kind: AttributeKind, attribute: Attribute) -> Operator {
        self.attributes.push(Attribute { name: name.into(), kind: Some(kind.into()), ..attribute });
        self
    }
}

/// A number that constants are made of.
pub(crate) trait Number: Copy {
    const ELEMENT: Element;
    fn extend(self, bytes: &mut Vec<u8>);
}

macro_rules! number {
    ($($number:ty: $element:ident),*) => {
        $(impl Number for $number {
            const ELEMENT: Element = Element::$element;
            fn extend(self, bytes: &mut Vec<u8>) {
                bytes.extend_from_slice(&self.to_le_bytes());
            }
        })*
    };
}
number!(f32: Float, f64: Double, i64: Int64);

/// Values are known by their names.
#[derive(Default)]
pub(crate) struct Builder {
    graph: Graph,
    names: HashSet<String>,
}

impl Builder {
    /// Takes a name for a value that must be called so; false when another has it.
    pub(crate) fn claim(&mut self, name: &str) -> bool {
        self.names.insert(name.to_owned())
    }

    /// A name that nothing has: the wanted one, or one with a `_` behind it.
    fn name(&mut self, wanted: &str) -> String {
        let mut name = wanted.to_owned();
        while !self.claim(&name) {
            name.push('_');
        }
        name
    }

    /// Adds an input `(N, width)` whose name is claimed.
    pub(crate) fn input(&mut self, name: &str, element: Element, width: usize, about: &str) {
        let value = Value { doc_string: about.into(), ..value(name, element, Some(width)) };
        self.graph.input.push(value);
    }

    /// Adds a node whose result is an output `(N, width)` or `(N)`, whose name is claimed.
    pub(crate) fn output(
        &mut self,
        operator: Operator,
        inputs: &[&str],
        name: &str,
        element: Element,
        width: Option<usize>,
    ) {
        self.push(operator, inputs, name.to_owned());
        self.graph.output.push(value(name, element, width));
    }

    /// Adds a constant, row-major, and gives its name.
    pub(crate) fn constant<T: Number>(&mut self, wanted: &str, shape: &[usize], values: &[T]) -> String {
        let name = self.name(wanted);
        let mut raw_data = Vec::with_capacity(size_of_val(values));
        values.iter().for_each(|v| v.extend(&mut raw_data));
        self.graph.initializer.push(Tensor {
            dims: shape.iter().map(|axis| int(*axis)).collect(),
            data_type: Some(T::ELEMENT.into()),
            name: name.clone(),
            raw_data,
        });
        name
    }

    /// Adds a node and gives the name of its result.
    pub(crate) fn node(&mut self, operator: Operator, inputs: &[&str], wanted: &str) -> String {
        let name = self.name(wanted);
        self.push(operator, inputs, name.clone());
        name
    }

    fn push(&mut self, operator: Operator, inputs: &[&str], output: String) {
        self.graph.node.push(Node {
            input: inputs.iter().map(|name| (*name).to_owned()).collect(),
            name: output.clone(),
            output: vec![output],
            op_type: operator.name.into(),
            attribute: operator.attributes,
            domain: operator.domain.into(),
        });
    }

    /// The graph.
    pub(crate) fn finish(self, name: &str) -> Graph {
        Graph { name: name.into(), ..self.graph }
    }
}

/// An operator that turns its operand into elements of another kind.
pub(crate) fn cast(to: Element) -> Operator {
    Operator::new("Cast").int("to", i32::from(to).into())
}

/// A size as ONNX writes it. None that a graph has is larger.
pub(crate) fn int(size: usize) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

fn value(name: &str, element: Element, width: Option<usize>) -> Value {
    let rows = Dimension { name: Some("N".into()), ..Dimension::default() };
    let width = width.map(|w| Dimension { value: Some(int(w)), ..Dimension::default() });
    let shape = Some(Shape { dim: [rows].into_iter().chain(width).collect() });
    let tensor = TensorType { element: Some(element.into()), shape };
    Value { name: name.into(), r#type: Some(Type { tensor: Some(tensor) }), ..Value::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stands_for_one_value() {
        let mut builder = Builder::default();
        assert!(builder.claim("x") && !builder.claim("x"));
        assert_eq!(builder.constant("x", &[1], &[1.5f32]), "x_");
        assert_eq!(builder.node(Operator::new("Relu"), &["x"], "x"), "x__");
        let graph = builder.finish("g");
        assert_eq!(graph.initializer[0].raw_data, [0, 0, 0xc0, 0x3f]);
        assert_eq!((&*graph.node[0].input[0], &*graph.node[0].output[0]), ("x", "x__"));
    }
}
