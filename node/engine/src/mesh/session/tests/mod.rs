//! Sessions: handshakes under every kind of weather, frames under attack, and golden bytes of both.

mod frames;
mod golden;
mod handshakes;
mod world;
