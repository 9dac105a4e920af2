//! Where commands find a network of this node: by its name, or without one the main network, or the only one there is. It
//! answers nothing itself.

use std::sync::Arc;

use shoal_protocol::local::view::{Beside, BesideState};
use shoal_protocol::local::{Code, Complaint};

use crate::vpn::asked::{self, Question, Told};
use crate::vpn::running::{Running, VpnPlace, unasked};

/// A network as commands find it.
#[derive(Clone)]
pub(crate) struct Seat {
    pub(crate) name: String,
    pub(crate) place: VpnPlace,
    /// What switches it; none where its private part was not asked for.
    pub(crate) running: Option<Arc<Running>>,
}

impl Seat {
    /// What switches it.
    ///
    /// # Errors
    /// The complaint that is answered where it was not asked for.
    pub(crate) fn running(&self) -> Result<&Arc<Running>, Complaint> {
        self.running.as_ref().ok_or_else(unasked)
    }
}

/// All networks of a node, the main one first.
#[derive(Clone)]
pub(crate) struct Seats(Arc<[Seat]>);

impl Seats {
    pub(crate) fn new(main: Seat, beside: impl IntoIterator<Item = Seat>) -> Self {
        Self([main].into_iter().chain(beside).collect())
    }

    /// The network of this name, or the one that is meant without a name.
    ///
    /// # Errors
    /// The complaint that is answered.
    pub(crate) fn find(&self, name: Option<&str>) -> Result<&Seat, Complaint> {
        let private = || self.0.iter().filter(|seat| seat.running.is_some());
        let names = || private().map(|seat| seat.name.as_str()).collect::<Vec<_>>().join(", ");
        let next = "shoal vpn --network NAME status";
        if let Some(name) = name {
            return self.0.iter().find(|seat| seat.name == name).ok_or_else(|| {
                let name: String = name.chars().take(64).collect();
                let why = if names().is_empty() { "it has none".to_owned() } else { format!("it has {}", names()) };
                Complaint::new(Code::NotFound, format!("this node has no private network {name:?}"), why, next)
            });
        }
        let mut all = private();
        match (self.0.first(), all.next(), all.next()) {
            (Some(main), ..) if main.running.is_some() => Ok(main),
            (_, Some(only), None) => Ok(only),
            (_, Some(_), Some(_)) => {
                let why = format!("its main one is not private, and it has {}", names());
                Err(Complaint::new(Code::NotFound, "this node has several private networks", why, next))
            }
            (Some(main), None, _) => Ok(main),
            (None, ..) => Err(unasked()),
        }
    }

    /// What the status of one network says of the others.
    pub(crate) async fn beside(&self, name: &str) -> Vec<Beside> {
        let mut others = Vec::new();
        for seat in self.0.iter().filter(|seat| seat.name != name && seat.running.is_some()) {
            let mut beside = Beside { name: seat.name.clone(), state: BesideState::Down, ..Beside::default() };
            match seat.place.find() {
                Ok(vpn) => {
                    beside.state = BesideState::On;
                    if let Ok(Told::Status(status)) = asked::ask(&vpn, Question::Status, 1).await {
                        (beside.interface, beside.ipv4) = (status.interface, status.ipv4);
                        beside.ipv6 = Some(status.ipv6);
                    }
                }
                Err(complaint) if complaint.code == Code::VpnFailed => {
                    (beside.state, beside.problem) = (BesideState::Failed, Some(complaint.what));
                }
                Err(_) => {}
            }
            others.push(beside);
        }
        others
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_name_is_answered_with_those_there_are() {
        let seat = |name: &str| Seat { name: name.to_owned(), place: VpnPlace::default(), running: None };
        let seats = Seats::new(seat("home"), [seat("work")]);
        assert_eq!(seats.find(Some("work")).unwrap().name, "work");
        // None of them is private: whoever asks is told so by the main one.
        assert_eq!(seats.find(None).unwrap().name, "home");
        assert_eq!(seats.find(None).unwrap().running().err().unwrap().code, Code::NoVpn);
        let complaint = seats.find(Some("wrok")).err().unwrap();
        assert_eq!(complaint.code, Code::NotFound);
        assert!(complaint.what.contains("\"wrok\"") && complaint.why == "it has none");
    }
}
