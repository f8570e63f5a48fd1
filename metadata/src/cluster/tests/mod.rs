//! A cluster as gateways and operators meet it: elections, kills, cuts, members that come and go, snapshots, retries.

mod absent;
mod fixture;
mod formats;
mod founding;
mod groups;
mod leaders;
mod levelling;
mod members;
mod snapshots;
