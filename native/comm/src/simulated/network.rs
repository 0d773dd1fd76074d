//! What a network costs.

use std::collections::BTreeMap;
use std::str::FromStr;

use firesteel_error::{Error, Result};

use crate::collective::Link;
use crate::compress::Place;
use crate::mailbox::Tag;

/// A network between workers that have a link each, and how fast they compute.
#[derive(Clone, Debug, PartialEq)]
pub struct Network {
    /// Seconds from a byte's leaving one link to its coming to another.
    pub latency: f64,
    /// Bytes in a second of each worker's own link, out and in by themselves.
    pub bandwidth: f64,
    /// Seconds of the sender's own for each message.
    pub per_message: f64,
    /// By rank, how many times as long as others a worker computes; 1 for those behind the last.
    pub stragglers: Vec<f64>,
    /// The share of messages that are lost, drawn by `seed` from who sends what to whom. They are sent again after `timeout`, which
    /// takes none of the bandwidth.
    pub loss: f64,
    /// Seconds until a lost message is sent again.
    pub timeout: f64,
    /// Of what is drawn.
    pub seed: u64,
    /// Ways from one rank to another that are not as all others.
    pub links: BTreeMap<(usize, usize), Link>,
}

impl Default for Network {
    /// A local network, `lan`: 1 Gbit/s, 0.3 ms.
    fn default() -> Network {
        Network {
            latency: 3e-4,
            bandwidth: 1.25e8,
            // About a system call and a thread that wakes.
            per_message: 1e-5,
            stragglers: Vec::new(),
            loss: 0.0,
            // The least of Linux.
            timeout: 0.2,
            seed: 0,
            links: BTreeMap::new(),
        }
    }
}

/// Names of networks: bytes in a second, seconds.
const PRESETS: [(&str, f64, f64); 4] =
    [("rack", 3.125e9, 3e-5), ("cluster", 1.25e9, 1e-4), ("lan", 1.25e8, 3e-4), ("wan", 1.25e7, 4e-2)];

/// Units and what they are in bytes in a second, and in seconds; the longer before those that they end with.
const RATES: [(&str, f64); 6] =
    [("kbit", 125.0), ("mbit", 1.25e5), ("gbit", 1.25e8), ("kb/s", 1e3), ("mb/s", 1e6), ("gb/s", 1e9)];
const SPANS: [(&str, f64); 4] = [("us", 1e-6), ("µs", 1e-6), ("ms", 1e-3), ("s", 1.0)];

impl FromStr for Network {
    type Err = Error;

    /// Reads a network: a name, `rack`, `cluster`, `lan` or `wan`, and numbers that take the place of its, as `lan, 2ms` or
    /// `1gbit, 0.5ms, loss 0.1%, message 20us`.
    ///
    /// # Errors
    /// `InvalidArgument` naming the word that is wrong and what is expected.
    fn from_str(text: &str) -> Result<Network> {
        let mut network = Network::default();
        for word in text.split(',').map(|word| word.trim().to_lowercase()) {
            let span = |word: &str| measure(word, &SPANS);
            if let Some((_, bandwidth, latency)) = PRESETS.iter().find(|(name, ..)| *name == word) {
                (network.bandwidth, network.latency) = (*bandwidth, *latency);
            } else if let Some(share) =
                word.strip_prefix("loss").and_then(|share| measure(share, &[("%", 0.01)]))
            {
                network.loss = share;
            } else if let Some(seconds) = word.strip_prefix("message").and_then(span) {
                network.per_message = seconds;
            } else if let Some(seconds) = word.strip_prefix("timeout").and_then(span) {
                network.timeout = seconds;
            } else if let Some(bandwidth) = measure(&word, &RATES) {
                network.bandwidth = bandwidth;
            } else if let Some(latency) = span(&word) {
                network.latency = latency;
            } else {
                let what = "rack, cluster, lan, wan, a bandwidth as 1gbit or 100mb/s, a latency as 0.5ms, \
                            'loss 1%', 'message 20us' or 'timeout 200ms'";
                return Err(Error::argument(format!("network '{text}' has '{word}', expected {what}")));
            }
        }
        network.check()?;
        Ok(network)
    }
}

/// A number before one of some units, in what they stand for.
fn measure(text: &str, units: &[(&str, f64)]) -> Option<f64> {
    let of_unit = |(unit, size): &(&str, f64)| {
        let number: f64 = text.strip_suffix(unit)?.trim().parse().ok()?;
        number.is_finite().then_some(number * size)
    };
    units.iter().find_map(of_unit)
}

impl Network {
    /// Refuses what no network is.
    ///
    /// # Errors
    /// `InvalidArgument` naming the number, what it is and what was expected.
    pub fn check(&self) -> Result<()> {
        let some = |name: String, value: f64, fits: bool, range: &str| match fits {
            true => Ok(()),
            false => Err(Error::argument(format!("{name} of a network is {value}, expected {range}"))),
        };
        let span = |name: &str, value: f64| {
            some(name.to_owned(), value, value >= 0.0 && value.is_finite(), "seconds from 0 on")
        };
        span("latency", self.latency)?;
        span("per_message", self.per_message)?;
        span("timeout", self.timeout)?;
        some("bandwidth".to_owned(), self.bandwidth, self.bandwidth > 0.0, "bytes in a second above 0")?;
        some("loss".to_owned(), self.loss, (0.0..1.0).contains(&self.loss), "at least 0 and below 1")?;
        for (rank, factor) in self.stragglers.iter().enumerate() {
            let name = format!("stragglers[{rank}]");
            some(name, *factor, *factor > 0.0 && factor.is_finite(), "a factor above 0")?;
        }
        for ((from, to), link) in &self.links {
            let fits = [link.latency, link.per_message].iter().all(|span| *span >= 0.0 && span.is_finite());
            some(format!("links[{from}, {to}]"), link.latency, fits, "seconds from 0 on")?;
            let what = "bytes in a second above 0";
            some(format!("links[{from}, {to}]"), link.bandwidth, link.bandwidth > 0.0, what)?;
        }
        Ok(())
    }

    /// The way between two workers.
    pub fn link(&self, from: usize, to: usize) -> Link {
        let Network { latency, per_message, bandwidth, .. } = *self;
        self.links.get(&(from, to)).copied().unwrap_or(Link { latency, per_message, bandwidth })
    }

    /// How many times as long a worker computes.
    pub fn factor(&self, rank: usize) -> f64 {
        self.stragglers.get(rank).copied().unwrap_or(1.0)
    }

    /// Seconds by which a message is late because it was lost.
    pub(super) fn late(&self, from: usize, to: usize, tag: Tag) -> f64 {
        if self.loss == 0.0 {
            return 0.0;
        }
        let place = Place { seed: self.seed, key: tag.key, rank: from, part: to as u32 };
        let draw = place.own();
        let times = (0..).take_while(|nth| f64::from(draw.uniform(4 * nth + tag.of as u64)) < self.loss);
        times.count() as f64 * self.timeout
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_read() {
        let network: Network = "1gbit, 0.5ms".parse().unwrap();
        assert_eq!(network, Network { latency: 5e-4, ..Network::default() });
        let network: Network = "WAN, loss 0.5%, message 20us, 80 ms, 10mb/s, timeout 1s".parse().unwrap();
        assert_eq!((network.latency, network.bandwidth), (0.08, 1e7));
        assert_eq!((network.loss, network.timeout), (0.005, 1.0));
        assert!((network.per_message - 2e-5).abs() < 1e-12);
    }

    #[test]
    fn what_is_no_network_is_named() {
        let wrong = |text: &str| text.parse::<Network>().unwrap_err().to_string();
        let e = wrong("lan, fast");
        assert!(e.starts_with("network 'lan, fast' has 'fast', expected rack, "), "{e}");
        assert_eq!(wrong("0gbit"), "bandwidth of a network is 0, expected bytes in a second above 0");
        assert_eq!(wrong("loss 100%"), "loss of a network is 1, expected at least 0 and below 1");
        assert_eq!(wrong("-1ms"), "latency of a network is -0.001, expected seconds from 0 on");
        assert!(wrong("").contains("has ''"));
        let stragglers = Network { stragglers: vec![1.0, 0.0], ..Network::default() };
        let e = stragglers.check().unwrap_err().to_string();
        assert_eq!(e, "stragglers[1] of a network is 0, expected a factor above 0");
    }

    #[test]
    fn as_many_messages_are_lost_as_it_says() {
        use crate::fabric::Key;
        use crate::mailbox::Move;
        let network = Network { loss: 0.2, timeout: 1.0, ..Network::default() };
        let late = |step| network.late(1, 2, Tag { of: Move::Shuffle, key: Key::new(step, 0, 0) });
        let all: Vec<f64> = (0..10_000).map(late).collect();
        // Σ k·pᵏ·(1 − p) = p/(1 − p).
        let mean = all.iter().sum::<f64>() / all.len() as f64;
        assert!((mean - 0.25).abs() < 0.02, "{mean}");
        assert!(all.contains(&2.0));
    }
}
