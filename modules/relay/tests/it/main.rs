//! The relay as its users see it: events in on the bus, messages out at the hub.

mod delivery;
mod disk;
mod docs;
mod drops;
mod process;
mod rig;
