//! Named tensors in safetensors files, and the flat vectors of a graph as such tensors.

use std::borrow::Cow;
use std::collections::HashMap;

use firesteel_error::{Error, Result};
use firesteel_model::{Buffer, Graph};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

/// The key of the only entry of a file's own metadata: more than one would be written in random order.
const ABOUT: &str = "firesteel";

/// Values as they stand in files and messages: little-endian, on every machine.
pub(crate) fn to_bytes(values: &[f32]) -> Cow<'_, [u8]> {
    if cfg!(target_endian = "little") {
        return Cow::Borrowed(bytemuck::cast_slice(values));
    }
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// Reads as many of the values that [`to_bytes`] wrote as there is room for.
pub(crate) fn from_bytes(bytes: &[u8], values: &mut [f32]) {
    for (value, bytes) in values.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *value = f32::from_le_bytes(*bytes);
    }
}

/// Tensors being collected for a file.
#[derive(Default)]
pub(crate) struct Writer<'a> {
    tensors: Vec<(String, Vec<usize>, &'a [f32])>,
}

impl<'a> Writer<'a> {
    pub(crate) fn add(&mut self, name: String, shape: &[usize], values: &'a [f32]) {
        self.tensors.push((name, shape.to_vec(), values));
    }

    /// Adds every parameter of a vector laid out as the graph's weights.
    pub(crate) fn add_weights(&mut self, prefix: &str, graph: &Graph, flat: &'a [f32]) {
        for p in graph.parameters() {
            self.add(format!("{prefix}{}", p.name), &p.shape, &flat[p.range.clone()]);
        }
    }

    /// Adds every buffer.
    pub(crate) fn add_buffers(&mut self, prefix: &str, graph: &Graph, flat: &'a [f32]) {
        for b in graph.buffers() {
            self.add(format!("{prefix}{}", b.name), &b.shape, &flat[b.range.clone()]);
        }
    }

    /// Adds a vector of any length.
    pub(crate) fn add_vector(&mut self, name: String, values: &'a [f32]) {
        self.add(name, &[values.len()], values);
    }

    /// The file, with a line about it.
    pub(crate) fn finish(self, about: String) -> Result<Vec<u8>> {
        let bytes: Vec<Cow<[u8]>> = self.tensors.iter().map(|(_, _, values)| to_bytes(values)).collect();
        let views: std::result::Result<Vec<_>, _> = self
            .tensors
            .iter()
            .zip(&bytes)
            .map(|((name, shape, _), bytes)| {
                TensorView::new(Dtype::F32, shape.clone(), bytes).map(|view| (name.as_str(), view))
            })
            .collect();
        let write = |views| {
            safetensors::serialize::<_, _, Vec<_>>(views, Some(HashMap::from([(ABOUT.to_string(), about)])))
        };
        views.and_then(write).map_err(|e| Error::internal(format!("weights cannot be written: {e}")))
    }
}

/// The line about a file.
pub(crate) fn about(file: &[u8]) -> Result<String> {
    let (_, metadata) = SafeTensors::read_metadata(file).map_err(damaged)?;
    let about = metadata.metadata().as_ref().and_then(|m| m.get(ABOUT));
    about.cloned().ok_or_else(|| Error::corrupt("the file of weights was not written by Firesteel"))
}

fn damaged(e: safetensors::SafeTensorError) -> Error {
    Error::corrupt(format!("the file of weights cannot be read: {e}"))
}

/// A file being read.
pub(crate) struct Reader<'a> {
    tensors: SafeTensors<'a>,
    /// What the file is, for messages: `checkpoint`, `model`.
    what: &'static str,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(file: &'a [u8], what: &'static str) -> Result<Reader<'a>> {
        Ok(Reader { tensors: SafeTensors::deserialize(file).map_err(damaged)?, what })
    }

    /// Copies a tensor out.
    ///
    /// # Errors
    /// `Corrupt` naming the tensor, and both shapes when they differ.
    fn copy(&self, prefix: &str, name: &str, shape: &[usize], to: &mut [f32]) -> Result<()> {
        let what = self.what;
        let Ok(tensor) = self.tensors.tensor(&format!("{prefix}{name}")) else {
            return Err(Error::corrupt(format!("the {what} has no parameter {name}, the network has")));
        };
        if tensor.shape() != shape {
            return Err(Error::corrupt(format!(
                "parameter {name} has shape {:?} in the {what} and {shape:?} in the network",
                tensor.shape()
            )));
        }
        if tensor.dtype() != Dtype::F32 || tensor.data().len() != 4 * to.len() {
            return Err(Error::corrupt(format!(
                "parameter {name} of the {what} is {:?}, expected F32",
                tensor.dtype()
            )));
        }
        from_bytes(tensor.data(), to);
        Ok(())
    }

    /// Copies every parameter to its place in a vector laid out as the graph's weights.
    pub(crate) fn copy_weights(&self, prefix: &str, graph: &Graph, flat: &mut [f32]) -> Result<()> {
        graph
            .parameters()
            .iter()
            .try_for_each(|p| self.copy(prefix, &p.name, &p.shape, &mut flat[p.range.clone()]))
    }

    /// Copies every buffer to its place.
    pub(crate) fn copy_buffers(&self, prefix: &str, graph: &Graph, flat: &mut [f32]) -> Result<()> {
        let copy = |b: &Buffer| self.copy(prefix, &b.name, &b.shape, &mut flat[b.range.clone()]);
        graph.buffers().iter().try_for_each(copy)
    }

    /// All tensors whose names begin so, by the rest of their names.
    ///
    /// # Errors
    /// `Corrupt` naming one that is not of f32.
    pub(crate) fn vectors(&self, prefix: &str) -> Result<Vec<(String, Vec<f32>)>> {
        let mut all = Vec::new();
        for (name, tensor) in self.tensors.tensors() {
            let Some(name) = name.strip_prefix(prefix) else { continue };
            if tensor.dtype() != Dtype::F32 {
                let (what, found) = (self.what, tensor.dtype());
                return Err(Error::corrupt(format!(
                    "{prefix}{name} of the {what} is {found:?}, expected F32"
                )));
            }
            let mut values = vec![0.0; tensor.data().len() / 4];
            from_bytes(tensor.data(), &mut values);
            all.push((name.to_owned(), values));
        }
        Ok(all)
    }

    /// The first name, in the order of the alphabet, that no parameter or buffer of the graph has.
    pub(crate) fn unknown(&self, prefix: &str, graph: &Graph) -> Option<String> {
        let known = |name: &str| {
            graph.parameters().iter().any(|p| p.name == name)
                || graph.buffers().iter().any(|b| b.name == name)
        };
        let names = self.tensors.names();
        let unknown = names.into_iter().filter_map(|name| name.strip_prefix(prefix)).filter(|n| !known(n));
        unknown.min().map(str::to_owned)
    }
}
