//! Arithmetic without networks: products held in registers, elementwise functions, moves between layouts.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`tile`] | products held in registers: the inside of linear layers and convolutions |
//! | [`product`] | matrix products on values in lanes |
//! | [`convolution`] | direct convolutions of one block |
//! | [`gather`] | rows of tables into lanes |
//! | [`math`] | exp, tanh, sigmoid, erf for a value, written so that a loop over them becomes vector code |
//! | [`lanes`] | loops over lanes, and moves between rows and lanes |

#![expect(clippy::needless_range_loop, reason = "registers have indices, and loops over them must unroll")]

pub(crate) mod convolution;
pub(crate) mod gather;
pub(crate) mod lanes;
pub(crate) mod math;
pub(crate) mod product;
pub(crate) mod tile;
