//! `layers = ['dense(64)', 'batch_norm', 'dropout(0.1)']`: a network in words.

use std::str::FromStr;

use firesteel_model::Op;
use firesteel_model::network::Activation;

/// Every layer as it is written, and what it is.
pub(super) const FORMS: &[(&str, &str)] = &[
    (
        "dense(64)",
        "a linear layer of this width and `activation_fn` behind it; `dense(64, tanh)` has its own",
    ),
    ("linear(64)", "a linear layer of this width; `bias=false` leaves the bias out"),
    ("relu", "max(x, 0)"),
    ("tanh", "the hyperbolic tangent"),
    ("sigmoid", "the logistic function"),
    ("gelu", "x·Φ(x)"),
    ("dropout(0.1)", "zeroes this part of the values in training"),
    (
        "batch_norm",
        "standardises over the rows of a step that one worker has, so small batches want `workers = 1`; `epsilon=1e-5`, `momentum=0.1`",
    ),
    ("layer_norm", "standardises each row; `epsilon=1e-5`"),
    ("flatten", "any shape to one axis"),
    (
        "conv2d(6, 5)",
        "a convolution of an image: channels, kernel; `stride=1`, `padding=0`, `groups=1`, `bias=true`",
    ),
    ("max_pool2d(2)", "the largest value of each window; `stride` is the window's, `padding=0`"),
    ("avg_pool2d(2)", "the mean of each window; `stride` is the window's, `padding=0`"),
];

/// Layers of other systems.
const NOT_YET: &[&str] = &["attention", "concat", "conv1d", "embedding", "gru", "lstm", "residual"];

/// The operations of all layers; `activation` is behind a `dense` that does not name its own.
///
/// The error has no place in it: the caller knows which option this is.
pub(super) fn parse(layers: &[String], activation: Activation) -> Result<Vec<Op>, String> {
    let mut ops = Vec::new();
    for text in layers {
        let mut call = Call::parse(text)?;
        let made = call.ops(activation)?;
        call.finish()?;
        ops.extend(made);
    }
    Ok(ops)
}

/// The activation of this name.
pub(super) fn activation(name: &str) -> Option<Activation> {
    match name {
        "relu" => Some(Activation::Relu),
        "tanh" => Some(Activation::Tanh),
        "sigmoid" => Some(Activation::Sigmoid),
        "gelu" => Some(Activation::Gelu),
        _ => None,
    }
}

fn activation_op(activation: Activation) -> Op {
    match activation {
        Activation::Relu => Op::Relu,
        Activation::Tanh => Op::Tanh,
        Activation::Sigmoid => Op::Sigmoid,
        Activation::Gelu => Op::Gelu,
    }
}

/// Kernel, stride and padding of a pool.
type Window = ([usize; 2], Option<[usize; 2]>, [usize; 2]);

/// `name(argument, key=argument)`.
struct Call<'a> {
    text: &'a str,
    name: String,
    /// In the order written; taken ones are gone.
    arguments: Vec<(Option<&'a str>, &'a str)>,
}

impl<'a> Call<'a> {
    fn parse(text: &'a str) -> Result<Call<'a>, String> {
        let trimmed = text.trim();
        let (name, inside) = match trimmed.split_once('(') {
            None => (trimmed, ""),
            Some((name, rest)) => match rest.strip_suffix(')') {
                Some(inside) => (name.trim_end(), inside),
                None => return Err(format!("layer '{text}' has no ) at its end")),
            },
        };
        let argument = |part: &'a str| match part.split_once('=') {
            None => (None, part.trim()),
            Some((key, value)) => (Some(key.trim()), value.trim()),
        };
        let arguments =
            if inside.trim().is_empty() { Vec::new() } else { inside.split(',').map(argument).collect() };
        Ok(Call { text, name: name.to_ascii_lowercase(), arguments })
    }

    fn ops(&mut self, default: Activation) -> Result<Vec<Op>, String> {
        let op = match self.name.as_str() {
            "dense" => return self.dense(default),
            "linear" => Op::Linear { outputs: self.width()?, bias: self.keyed("bias")?.unwrap_or(true) },
            "flatten" => Op::Flatten,
            "conv2d" => self.conv2d()?,
            "max_pool2d" => {
                let (kernel, stride, padding) = self.window()?;
                Op::MaxPool2d { kernel, stride, padding }
            }
            "avg_pool2d" => {
                let (kernel, stride, padding) = self.window()?;
                Op::AvgPool2d { kernel, stride, padding }
            }
            "dropout" => Op::Dropout { rate: self.rate()? },
            "batch_norm" => Op::BatchNorm {
                epsilon: self.positive("epsilon", 1e-5)?,
                momentum: self.positive("momentum", 0.1)?,
            },
            "layer_norm" => Op::LayerNorm { epsilon: self.positive("epsilon", 1e-5)? },
            name => match activation(name) {
                Some(activation) => activation_op(activation),
                None => return Err(self.unknown()),
            },
        };
        Ok(vec![op])
    }

    fn dense(&mut self, default: Activation) -> Result<Vec<Op>, String> {
        let linear = Op::Linear { outputs: self.width()?, bias: self.keyed("bias")?.unwrap_or(true) };
        let own = self.keyed::<String>("activation")?.or_else(|| self.positional().map(str::to_owned));
        let activation = match own.map(|name| name.to_ascii_lowercase()) {
            None => default,
            Some(name) => activation(&name).ok_or_else(|| {
                format!("layer '{}': '{name}' is no activation; use relu, tanh, sigmoid or gelu", self.text)
            })?,
        };
        Ok(vec![linear, activation_op(activation)])
    }

    fn conv2d(&mut self) -> Result<Op, String> {
        let (outputs, kernel) = (self.side(1)?, self.side(1)?);
        let (Some(outputs), Some(kernel)) = (outputs, kernel) else {
            return Err(format!("layer '{}' expects channels and a kernel: conv2d(6, 5)", self.text));
        };
        let stride = self.side_of("stride", 1)?.unwrap_or(1);
        let padding = self.side_of("padding", 0)?.unwrap_or(0);
        Ok(Op::Conv2d {
            outputs,
            kernel: [kernel; 2],
            stride: [stride; 2],
            padding: [padding; 2],
            groups: self.side_of("groups", 1)?.unwrap_or(1),
            bias: self.keyed("bias")?.unwrap_or(true),
        })
    }

    fn window(&mut self) -> Result<Window, String> {
        let Some(kernel) = self.side(1)? else {
            return Err(format!("layer '{}' expects a window: {}(2)", self.text, self.name));
        };
        let stride = self.side_of("stride", 1)?.map(|side| [side; 2]);
        Ok(([kernel; 2], stride, [self.side_of("padding", 0)?.unwrap_or(0); 2]))
    }

    /// The next argument without a key: channels, or a side of a square.
    fn side(&mut self, least: usize) -> Result<Option<usize>, String> {
        self.positional().map(|text| self.checked(text, "a size", least)).transpose()
    }

    fn side_of(&mut self, key: &str, least: usize) -> Result<Option<usize>, String> {
        let text = self.keyed::<String>(key)?;
        text.map(|text| self.checked(&text, key, least)).transpose()
    }

    fn checked(&self, text: &str, what: &str, least: usize) -> Result<usize, String> {
        let most = super::table::WIDEST as usize;
        let side = text.parse().ok().filter(|side| (least..=most).contains(side));
        side.ok_or_else(|| format!("layer '{}': {what} is '{text}', expected {least} to {most}", self.text))
    }

    fn unknown(&self) -> String {
        if NOT_YET.contains(&self.name.as_str()) {
            return format!("layer '{}' is not supported yet in SQL", self.text);
        }
        let names = FORMS.iter().map(|(form, _)| form.split('(').next().unwrap_or(form));
        match super::nearest::nearest(&self.name, names) {
            Some(near) => format!("there is no layer '{}'; did you mean '{near}'?", self.name),
            None => format!("there is no layer '{}'", self.name),
        }
    }

    /// The first argument without a key.
    fn positional(&mut self) -> Option<&'a str> {
        let at = self.arguments.iter().position(|(key, _)| key.is_none())?;
        Some(self.arguments.remove(at).1)
    }

    fn keyed<T: FromStr>(&mut self, key: &str) -> Result<Option<T>, String> {
        let Some(at) = self.arguments.iter().position(|(k, _)| *k == Some(key)) else { return Ok(None) };
        let value = self.arguments.remove(at).1;
        let parsed = value.parse().map_err(|_| format!("layer '{}': {key} is '{value}'", self.text))?;
        Ok(Some(parsed))
    }

    fn width(&mut self) -> Result<usize, String> {
        let width = self
            .positional()
            .and_then(|w| w.parse().ok())
            .filter(|w| (1..=super::table::WIDEST as usize).contains(w));
        width.ok_or_else(|| {
            format!(
                "layer '{}' expects a width from 1 to {}: {}(64)",
                self.text,
                super::table::WIDEST,
                self.name
            )
        })
    }

    fn rate(&mut self) -> Result<f32, String> {
        let rate = self.positional().and_then(|r| r.parse().ok()).filter(|r| (0.0..1.0).contains(r));
        rate.ok_or_else(|| {
            format!("layer '{}' expects a rate at least 0 and below 1: dropout(0.1)", self.text)
        })
    }

    fn positive(&mut self, key: &str, default: f32) -> Result<f32, String> {
        match self.keyed::<f32>(key)? {
            None => Ok(default),
            Some(value) if value > 0.0 && value.is_finite() => Ok(value),
            Some(value) => {
                Err(format!("layer '{}': {key} is {value}, expected a positive number", self.text))
            }
        }
    }

    /// That nothing is left over.
    fn finish(self) -> Result<(), String> {
        match self.arguments.first() {
            None => Ok(()),
            Some((Some(key), _)) => Err(format!("layer '{}' has no '{key}'", self.text)),
            Some((None, value)) => Err(format!("layer '{}' does not take '{value}'", self.text)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(layers: &[&str]) -> Result<Vec<Op>, String> {
        let layers: Vec<String> = layers.iter().map(|l| (*l).to_owned()).collect();
        parse(&layers, Activation::Relu)
    }

    #[test]
    fn words_become_operations() {
        let ops = read(&[
            "dense(64)",
            " Dense( 32 , tanh ) ",
            "linear(8, bias=false)",
            "batch_norm",
            "dropout(0.1)",
            "layer_norm(epsilon=1e-6)",
            "gelu()",
            "flatten",
            "conv2d(6, 5, padding=2)",
            "max_pool2d(2, stride=1)",
            "avg_pool2d(3)",
        ]);
        let expected = vec![
            Op::Linear { outputs: 64, bias: true },
            Op::Relu,
            Op::Linear { outputs: 32, bias: true },
            Op::Tanh,
            Op::Linear { outputs: 8, bias: false },
            Op::BatchNorm { epsilon: 1e-5, momentum: 0.1 },
            Op::Dropout { rate: 0.1 },
            Op::LayerNorm { epsilon: 1e-6 },
            Op::Gelu,
            Op::Flatten,
            Op::Conv2d { outputs: 6, kernel: [5, 5], stride: [1, 1], padding: [2, 2], groups: 1, bias: true },
            Op::MaxPool2d { kernel: [2, 2], stride: Some([1, 1]), padding: [0, 0] },
            Op::AvgPool2d { kernel: [3, 3], stride: None, padding: [0, 0] },
        ];
        assert_eq!(ops.unwrap(), expected);
        assert_eq!(read(&[]).unwrap(), vec![]);
    }

    #[test]
    fn every_form_of_the_reference_is_read() {
        for (form, _) in FORMS {
            assert!(!read(&[form]).unwrap().is_empty(), "{form}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        let cases = [
            ("dense", "layer 'dense' expects a width from 1 to 1048576: dense(64)"),
            ("dense(0)", "layer 'dense(0)' expects a width from 1 to 1048576: dense(64)"),
            ("dense(64", "layer 'dense(64' has no ) at its end"),
            (
                "dense(64, swish)",
                "layer 'dense(64, swish)': 'swish' is no activation; use relu, tanh, sigmoid or gelu",
            ),
            ("dense(64, relu, 3)", "layer 'dense(64, relu, 3)' does not take '3'"),
            ("dropout(1)", "layer 'dropout(1)' expects a rate at least 0 and below 1: dropout(0.1)"),
            ("dropout(NaN)", "layer 'dropout(NaN)' expects a rate at least 0 and below 1: dropout(0.1)"),
            ("linear(8, bias=x)", "layer 'linear(8, bias=x)': bias is 'x'"),
            ("relu(leak=1)", "layer 'relu(leak=1)' has no 'leak'"),
            (
                "layer_norm(epsilon=-1)",
                "layer 'layer_norm(epsilon=-1)': epsilon is -1, expected a positive number",
            ),
            ("conv2d(6)", "layer 'conv2d(6)' expects channels and a kernel: conv2d(6, 5)"),
            ("conv2d(6, 0)", "layer 'conv2d(6, 0)': a size is '0', expected 1 to 1048576"),
            (
                "max_pool2d(2, stride=x)",
                "layer 'max_pool2d(2, stride=x)': stride is 'x', expected 1 to 1048576",
            ),
            ("batchnorm", "there is no layer 'batchnorm'; did you mean 'batch_norm'?"),
            ("residual(dense(64))", "layer 'residual(dense(64))' is not supported yet in SQL"),
            ("", "there is no layer ''"),
        ];
        for (layer, message) in cases {
            assert_eq!(read(&[layer]).unwrap_err(), message);
        }
    }
}
