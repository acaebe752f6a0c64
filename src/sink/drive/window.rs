//! How many parcels may be under way at once.

/// Grows by one for each window's worth of parcels that arrive, is halved by a failure, and is one for as long as nothing arrives.
#[derive(Debug)]
pub(super) struct Window {
    size: usize,
    max: usize,
    arrived: usize,
    is_failing: bool,
}

impl Window {
    pub(super) fn new(max: usize) -> Self {
        Self { size: 1, max: max.max(1), arrived: 0, is_failing: false }
    }

    pub(super) fn limit(&self) -> usize {
        if self.is_failing { 1 } else { self.size }
    }

    pub(super) fn is_failing(&self) -> bool {
        self.is_failing
    }

    pub(super) fn arrived(&mut self) {
        self.is_failing = false;
        self.arrived += 1;
        if self.arrived >= self.size {
            (self.size, self.arrived) = ((self.size + 1).min(self.max), 0);
        }
    }

    pub(super) fn failed(&mut self) {
        // Those that were under way with the first tell nothing new.
        if !self.is_failing {
            (self.size, self.arrived, self.is_failing) = ((self.size / 2).max(1), 0, true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_with_what_arrives_and_shrinks_with_what_does_not() {
        let mut window = Window::new(4);
        let mut limits = Vec::new();
        for _ in 0..12 {
            limits.push(window.limit());
            window.arrived();
        }
        assert_eq!(limits, [1, 2, 2, 3, 3, 3, 4, 4, 4, 4, 4, 4]);
        window.failed();
        window.failed();
        assert_eq!(window.limit(), 1);
        window.arrived();
        assert_eq!(window.limit(), 2);
    }
}
