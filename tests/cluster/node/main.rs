//! The ground that tests on a real cluster stand on: the node comes up, runs Lateen's images, bears what tests do to it,
//! and leaves nothing behind.

mod daemons;
mod images;
mod remains;
mod shop;
