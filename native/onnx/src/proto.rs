//! The messages of `onnx.proto` that a file of ours needs, with that file's tags. A field that may be 0 and is read all
//! the same is an `Option`: only then is the 0 written.

use prost::Message;

/// `ModelProto`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct File {
    #[prost(int64, optional, tag = "1")]
    pub(crate) ir_version: Option<i64>,
    #[prost(string, tag = "2")]
    pub(crate) producer_name: String,
    #[prost(string, tag = "3")]
    pub(crate) producer_version: String,
    #[prost(message, optional, tag = "7")]
    pub(crate) graph: Option<Graph>,
    #[prost(message, repeated, tag = "8")]
    pub(crate) opset_import: Vec<OperatorSet>,
    #[prost(message, repeated, tag = "14")]
    pub(crate) metadata_props: Vec<Property>,
}

/// `OperatorSetIdProto`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct OperatorSet {
    /// Empty for ONNX itself.
    #[prost(string, tag = "1")]
    pub(crate) domain: String,
    #[prost(int64, optional, tag = "2")]
    pub(crate) version: Option<i64>,
}

/// `StringStringEntryProto`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Property {
    #[prost(string, optional, tag = "1")]
    pub(crate) key: Option<String>,
    #[prost(string, optional, tag = "2")]
    pub(crate) value: Option<String>,
}

/// `GraphProto`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Graph {
    #[prost(message, repeated, tag = "1")]
    pub(crate) node: Vec<Node>,
    #[prost(string, tag = "2")]
    pub(crate) name: String,
    #[prost(message, repeated, tag = "5")]
    pub(crate) initializer: Vec<Tensor>,
    #[prost(message, repeated, tag = "11")]
    pub(crate) input: Vec<Value>,
    #[prost(message, repeated, tag = "12")]
    pub(crate) output: Vec<Value>,
}

/// `NodeProto`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Node {
    #[prost(string, repeated, tag = "1")]
    pub(crate) input: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    pub(crate) output: Vec<String>,
    #[prost(string, tag = "3")]
    pub(crate) name: String,
    #[prost(string, tag = "4")]
    pub(crate) op_type: String,
    #[prost(message, repeated, tag = "5")]
    pub(crate) attribute: Vec<Attribute>,
    /// Empty for ONNX itself.
    #[prost(string, tag = "7")]
    pub(crate) domain: String,
}

/// `AttributeProto`. Lists of numbers are not packed: `onnx.proto` has the syntax of proto2.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Attribute {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(float, optional, tag = "2")]
    pub(crate) f: Option<f32>,
    #[prost(int64, optional, tag = "3")]
    pub(crate) i: Option<i64>,
    #[prost(int64, repeated, packed = "false", tag = "8")]
    pub(crate) ints: Vec<i64>,
    #[prost(bytes = "vec", repeated, tag = "9")]
    pub(crate) strings: Vec<Vec<u8>>,
    #[prost(enumeration = "AttributeKind", optional, tag = "20")]
    pub(crate) kind: Option<i32>,
}

/// `AttributeProto.AttributeType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum AttributeKind {
    Float = 1,
    Int = 2,
    Ints = 7,
    Strings = 8,
}

/// `TensorProto`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Tensor {
    #[prost(int64, repeated, packed = "false", tag = "1")]
    pub(crate) dims: Vec<i64>,
    #[prost(enumeration = "Element", optional, tag = "2")]
    pub(crate) data_type: Option<i32>,
    #[prost(string, tag = "8")]
    pub(crate) name: String,
    /// Little-endian.
    #[prost(bytes = "vec", tag = "9")]
    pub(crate) raw_data: Vec<u8>,
}

/// `TensorProto.DataType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum Element {
    Float = 1,
    Int64 = 7,
    String = 8,
    Double = 11,
}

/// `ValueInfoProto`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Value {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(message, optional, tag = "2")]
    pub(crate) r#type: Option<Type>,
    #[prost(string, tag = "3")]
    pub(crate) doc_string: String,
}

/// `TypeProto`, of a tensor.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Type {
    #[prost(message, optional, tag = "1")]
    pub(crate) tensor: Option<TensorType>,
}

/// `TypeProto.Tensor`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct TensorType {
    #[prost(enumeration = "Element", optional, tag = "1")]
    pub(crate) element: Option<i32>,
    #[prost(message, optional, tag = "2")]
    pub(crate) shape: Option<Shape>,
}

/// `TensorShapeProto`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Shape {
    #[prost(message, repeated, tag = "1")]
    pub(crate) dim: Vec<Dimension>,
}

/// `TensorShapeProto.Dimension`: one of the two.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Dimension {
    #[prost(int64, optional, tag = "1")]
    pub(crate) value: Option<i64>,
    #[prost(string, optional, tag = "2")]
    pub(crate) name: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_literally() {
        let node = Node {
            input: vec!["x".into()],
            output: vec!["y".into()],
            op_type: "Relu".into(),
            domain: "d".into(),
            ..Node::default()
        };
        assert_eq!(node.encode_to_vec(), b"\x0a\x01x\x12\x01y\x22\x04Relu\x3a\x01d");
    }

    #[test]
    fn an_attribute_of_0_is_written() {
        let kind = Some(AttributeKind::Int.into());
        let zero = Attribute { name: "axis".into(), i: Some(0), kind, ..Attribute::default() };
        assert_eq!(zero.encode_to_vec(), b"\x0a\x04axis\x18\x00\xa0\x01\x02");
    }

    #[test]
    fn lists_of_numbers_are_not_packed() {
        let tensor = Tensor {
            dims: vec![1, 2],
            data_type: Some(Element::Double.into()),
            raw_data: vec![7],
            ..Tensor::default()
        };
        assert_eq!(tensor.encode_to_vec(), b"\x08\x01\x08\x02\x10\x0b\x4a\x01\x07");
    }

    #[test]
    fn a_value_and_a_file_literally() {
        let rows = Dimension { name: Some("N".into()), ..Dimension::default() };
        let shape = Shape { dim: vec![rows, Dimension { value: Some(3), ..Dimension::default() }] };
        let tensor = TensorType { element: Some(Element::String.into()), shape: Some(shape) };
        let value =
            Value { name: "c".into(), r#type: Some(Type { tensor: Some(tensor) }), ..Value::default() };
        let bytes = b"\x0a\x01c\x12\x0f\x0a\x0d\x08\x08\x12\x09\x0a\x03\x12\x01N\x0a\x02\x08\x03";
        assert_eq!(value.encode_to_vec(), bytes);
        let file = File {
            ir_version: Some(8),
            opset_import: vec![OperatorSet { version: Some(17), ..OperatorSet::default() }],
            metadata_props: vec![Property { key: Some("k".into()), value: Some(String::new()) }],
            ..File::default()
        };
        assert_eq!(file.encode_to_vec(), b"\x08\x08\x42\x02\x10\x11\x72\x05\x0a\x01k\x12\x00");
    }
}
