//! Seeded random numbers, and machines drawn from a Zipf or uniform distribution.
//!
//! Of our own: a draw is two multiplications, the same seed gives the same bodies on every platform and for ever,
//! and nothing here needs to be unpredictable.

/// SplitMix64 (Steele, Lea, Flood 2014).
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which must not be 0.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        // Lemire's multiplication without the rejection: the bias is below 2^-32 for any fleet.
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }

    /// Uniform in [0, 1).
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

/// Draws an index in proportion to its weight in constant time (Vose's alias method).
#[derive(Clone, Debug)]
pub(crate) struct Alias {
    slots: Vec<(f64, u32)>,
}

impl Alias {
    /// `weights` must be positive and not empty.
    pub(crate) fn new(weights: &[f64]) -> Self {
        let total: f64 = weights.iter().sum();
        let mut share: Vec<f64> = weights.iter().map(|weight| weight / total * weights.len() as f64).collect();
        let mut slots: Vec<(f64, u32)> = (0..weights.len()).map(|index| (1.0, index as u32)).collect();
        let (mut small, mut large): (Vec<usize>, Vec<usize>) =
            (0..weights.len()).partition(|&index| share[index] < 1.0);
        while let (Some(poor), Some(&rich)) = (small.pop(), large.last()) {
            slots[poor] = (share[poor], rich as u32);
            share[rich] -= 1.0 - share[poor];
            if share[rich] < 1.0 {
                large.pop();
                small.push(rich);
            }
        }
        Self { slots }
    }

    pub(crate) fn draw(&self, random: &mut Random) -> usize {
        let slot = random.below(self.slots.len());
        let (keep, other) = self.slots[slot];
        if random.unit() < keep { slot } else { other as usize }
    }
}

/// How much of the load each of `machines` gets: `exponent` 0 is uniform, 1 is Zipf's law.
pub(crate) fn zipf_weights(machines: usize, exponent: f64) -> Vec<f64> {
    (1..=machines).map(|rank| (rank as f64).powf(-exponent)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_follow_the_weights() {
        let weights = [1.0, 2.0, 5.0];
        let alias = Alias::new(&weights);
        let mut random = Random::new(7);
        let mut drawn = [0_u32; 3];
        for _ in 0..80_000 {
            drawn[alias.draw(&mut random)] += 1;
        }
        for (count, expected) in drawn.iter().zip([10_000.0, 20_000.0, 50_000.0]) {
            assert!((f64::from(*count) / expected - 1.0).abs() < 0.05, "{drawn:?}");
        }
    }

    #[test]
    fn zipf_gives_the_second_machine_half_of_the_first() {
        let weights = zipf_weights(1_000, 1.0);
        assert!((weights[0] / weights[1] - 2.0).abs() < 1e-9);
        assert_eq!(zipf_weights(3, 0.0), [1.0, 1.0, 1.0]);
    }

    #[test]
    fn every_index_is_reached() {
        let alias = Alias::new(&zipf_weights(50, 1.2));
        let mut random = Random::new(1);
        let mut seen = [false; 50];
        for _ in 0..50_000 {
            seen[alias.draw(&mut random)] = true;
        }
        assert!(seen.iter().all(|&reached| reached));
    }
}
