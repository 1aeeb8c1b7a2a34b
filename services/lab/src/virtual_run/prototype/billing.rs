//! The credit manager: from what a user uses to coins, and what a lack of them costs.

use units::{CpuPrice, MilliCores};

use super::delays::{BILLED, BLOCK, THRESHOLD};
use super::scaling::difference;
use super::{Container, Platform};

impl Platform<'_> {
    /// One round of the credit manager.
    pub(super) fn bill(&mut self) {
        if self.used > THRESHOLD {
            self.pending = self.pending.saturating_add(self.used.over(BILLED));
        }
        let price: CpuPrice = self.user.settings.price;
        let block = price.affordable(BLOCK);
        while self.pending >= block {
            self.pending = self.pending.saturating_sub(block);
            self.coins = self.coins.saturating_sub(BLOCK);
        }
        let floor = self.function.limits.floor();
        match (self.restricted, self.coins) {
            (false, coins) if coins.is_negative() => {
                self.restricted = true;
                self.throttle(floor);
            }
            (true, coins) if coins.is_positive() => {
                self.restricted = false;
                if let Some(container) = &mut self.container {
                    container.guarded = true;
                }
            }
            (true, _) => {
                let slipped = |container: &Container| container.guarded || container.known != floor;
                if self.container.as_ref().is_some_and(slipped) {
                    self.throttle(floor);
                }
            }
            (false, _) => {}
        }
    }

    fn throttle(&mut self, floor: MilliCores) {
        if let Some(container) = &mut self.container {
            container.guarded = false;
            self.request = Some(difference(container.known, floor));
        }
    }
}
