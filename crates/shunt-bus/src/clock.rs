//! The machine's clocks.

use shunt_wire::Mono;

/// Now, on the machine's monotonic clock (`CLOCK_MONOTONIC`).
pub fn now() -> Mono {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Mono::from_nanos(now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64)
}
