//! The memory ceiling: requests that the process refuses when it uses as much RAM as it may.
//!
//! The bounds of the shards and of control each limit one thing, and their sum exceeds the memory of most machines.
//! This ceiling limits the process as the kernel sees it, before the kernel kills it.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use comet_core::Limits;
use comet_ops::{Exposition, Kind, resident_bytes};
use tokio::time::sleep;
use tonic::Status;

use crate::hub::HubDriver;

/// Time between two readings of the memory: while half of it is free, and otherwise.
const PERIODS: [Duration; 2] = [Duration::from_secs(1), Duration::from_millis(100)];

/// The requests that are refused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
enum Refuses {
    Nothing,
    Clients,
    ClientsAndPushes,
}

/// The RAM that the process may use, and the present refusals.
#[derive(Debug)]
pub(crate) struct MemoryCeiling {
    ceiling: AtomicU64,
    refuses: AtomicU8,
}

impl MemoryCeiling {
    /// A ceiling of `ceiling` bytes.
    pub(crate) fn new(ceiling: u64) -> Self {
        Self { ceiling: AtomicU64::new(ceiling), refuses: AtomicU8::new(Refuses::Nothing as u8) }
    }

    /// Sets the ceiling, from the next reading on.
    pub(crate) fn set(&self, ceiling: u64) {
        self.ceiling.store(ceiling, Ordering::Relaxed);
    }

    /// # Errors
    /// If pushes are refused.
    pub(crate) fn check_push(&self) -> Result<(), Status> {
        if self.refuses.load(Ordering::Relaxed) < Refuses::ClientsAndPushes as u8 {
            return Ok(());
        }
        Err(Status::resource_exhausted(
            "this server has more memory than limits.memory allows; try again later, or at another one",
        ))
    }

    /// Adds the families.
    pub(crate) fn expose(&self, page: &mut Exposition) {
        page.family("comet_memory_ceiling_bytes", Kind::Gauge, "What limits.memory allows.")
            .sample(self.ceiling.load(Ordering::Relaxed));
        page.family(
            "comet_memory_refuses",
            Kind::Gauge,
            "What is refused for limits.memory: 0 nothing, 1 new clients, 2 pushes as well.",
        )
        .sample(u64::from(self.refuses.load(Ordering::Relaxed)));
    }

    /// Reads the memory periodically, and has new clients and pushes refused while there is too little of it.
    pub(crate) async fn watch(self: Arc<Self>, hub: Arc<HubDriver>) -> Infallible {
        let (mut refuses, mut is_read) = (Refuses::Nothing, true);
        let mut period = Duration::ZERO;
        loop {
            sleep(period).await;
            let resident = resident_bytes();
            let ceiling = self.ceiling.load(Ordering::Relaxed);
            let is_half_taken = *resident.as_ref().unwrap_or(&0) > ceiling / 2;
            period = PERIODS[usize::from(is_half_taken)];
            if let Err(error) = &resident
                && is_read
            {
                log::error!(
                    "limits.memory is not kept, as the memory in use cannot be read: {error}"
                );
            }
            is_read = resident.is_ok();
            let next = refuses.next(&resident, ceiling);
            if next == refuses {
                continue;
            }
            refuses = next;
            self.refuses.store(next as u8, Ordering::Relaxed);
            let is_out_of_memory = next > Refuses::Nothing;
            let refuses_pushes = next == Refuses::ClientsAndPushes;
            hub.configure(|limits| Limits { is_out_of_memory, refuses_pushes, ..limits });
            let mebibytes = resident.unwrap_or_default() >> 20;
            match next {
                Refuses::Nothing => {
                    log::info!("memory is back at {mebibytes} MiB: {next} is refused for it");
                }
                _ => log::warn!(
                    "memory is at {mebibytes} MiB, beyond limits.memory: {next} are refused"
                ),
            }
        }
    }
}

impl Refuses {
    /// The refusals when the process uses `resident` bytes. A refusal lasts until the use is a sixteenth below the
    /// bound that it exceeded, so that it does not alternate.
    fn next(self, resident: &io::Result<u64>, ceiling: u64) -> Self {
        let Ok(resident) = *resident else { return Self::Nothing };
        let is_beyond = |bound: u64, kind: Self| {
            resident >= if self >= kind { bound - bound / 16 } else { bound }
        };
        if is_beyond(ceiling.saturating_add(ceiling / 8), Self::ClientsAndPushes) {
            Self::ClientsAndPushes
        } else if is_beyond(ceiling, Self::Clients) {
            Self::Clients
        } else {
            Self::Nothing
        }
    }
}

impl fmt::Display for Refuses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nothing => "nothing",
            Self::Clients => "new clients",
            Self::ClientsAndPushes => "new clients and pushes",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_thresholds_of_refusals_have_hysteresis() {
        use Refuses::{Clients, ClientsAndPushes, Nothing};
        let mut refuses = Nothing;
        for (resident, expected) in [
            (999, Nothing),
            (1_000, Clients),
            (950, Clients),
            (1_124, Clients),
            (1_125, ClientsAndPushes),
            (1_060, ClientsAndPushes),
            (1_054, Clients),
            (938, Clients),
            (937, Nothing),
            (2_000, ClientsAndPushes),
            (0, Nothing),
        ] {
            refuses = refuses.next(&Ok(resident), 1_000);
            assert_eq!(refuses, expected, "{resident}");
        }
        let unread = Err(io::Error::other("not mounted"));
        assert_eq!(ClientsAndPushes.next(&unread, 1_000), Nothing);
    }
}
