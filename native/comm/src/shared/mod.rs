//! Memory that workers of other processes on one host read: what is sent to them lies there, and only its place travels.
//!
//! A worker has one arena, a file in memory without a name in any folder, and offers it to each peer of its host. A peer that can
//! open it maps it for reading; one that cannot, as it runs for another user or in a container of its own, gets parts through its
//! socket as any other. A part stays where it is until all who read it have let it go.

#[allow(unsafe_code, reason = "places in memory that is mapped are slices")]
mod arena;
mod free;
mod lender;
#[allow(unsafe_code, reason = "as above, in the memory of a peer")]
mod window;

pub(crate) use arena::{Arena, Offer, Place};
pub(crate) use lender::{Lender, Loan};
pub(crate) use window::Window;

/// A shorter part is sent sooner than its place, and is not worth a place in memory that is used again.
pub(crate) const SHORTEST: usize = 4 << 10;
