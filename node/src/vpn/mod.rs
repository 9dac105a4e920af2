//! The VPN's half of the program: what carries packets between the system, the engine and the swarm. It decides nothing
//! about peers, routes or packets; that is `shoal_engine::mesh`.

pub mod system;
