//! Row `forged`: one TCP flow over datagrams while somebody sends 100,000 forged handshake initiations a second, at the
//! node that receives, and for comparison as many at a socket of somebody else on its machine: sender, receiver and forger
//! share the cores here, and what the forger and the kernel take is not the node's.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use shoal_protocol::mesh::session::MessageKind;
use shoal_tests::asked::dropped;
use shoal_tests::bench::Setting;
use shoal_tests::bench::report::{Limit, context, judged};
use shoal_tests::forger::Forger;

use crate::contender::{Contender, PORT, Running};
use crate::load::{Flows, median};

const MTU: u16 = 1360;
/// Messages a second.
const RATE: u64 = 100_000;
const ROUNDS: usize = 3;
const TIME: Duration = Duration::from_secs(5);
const TIME_SMALL: Duration = Duration::from_secs(1);
/// Of the speed beside a flood at somebody else, at least.
const LIMIT: f64 = 0.9;
const SHOAL: &str = env!("CARGO_BIN_EXE_test-shoal");

/// Megabits a second of one flow while `to` is sent forged messages, if it is, and how many a second those were.
fn beside(running: &Running, to: Option<SocketAddr>, time: Duration) -> (f64, f64) {
    let kinds = [MessageKind::Initiation];
    let forger = to.map(|to| Forger::start(&running.left, to, &kinds, RATE).unwrap());
    let flow = Flows::start(&running.left, &running.right, running.address, 1);
    let (rate, ..) = flow.measured(time, || ());
    let sent = forger.as_ref().map_or(0.0, Forger::rate);
    if let Some(forger) = forger {
        forger.finish().unwrap();
    }
    (rate.megabits(), sent)
}

/// Measures and prints the row.
pub(crate) fn row(setting: &Setting) {
    let (rounds, time) = if setting.small { (1, TIME_SMALL) } else { (ROUNDS, TIME) };
    let running = Running::start(Contender::Shoal("udp"), MTU);
    let bind = || Ok(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?);
    let bystander = running.right.inside(bind).unwrap();
    bystander.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let at = |port: u16| Some(SocketAddr::new(Ipv4Addr::new(10, 77, 0, 2).into(), port));
    let (node, other) = (at(PORT.parse().unwrap()), at(bystander.local_addr().unwrap().port()));
    let stop = AtomicBool::new(false);
    let (mut calm, mut elsewhere, mut here, mut rates) = (vec![], vec![], vec![], vec![]);
    std::thread::scope(|scope| {
        // Somebody reads them there too, and does nothing with them.
        scope.spawn(|| {
            let mut message = [0; 2048];
            while !stop.load(Ordering::Relaxed) {
                // One that does not come is waited for again.
                let _ = bystander.recv(&mut message);
            }
        });
        for _ in 0..rounds {
            calm.push(beside(&running, None, time).0);
            elsewhere.push(beside(&running, other, time).0);
            let (speed, rate) = beside(&running, node, time);
            here.push(speed);
            rates.push(rate);
        }
        stop.store(true, Ordering::Relaxed);
    });
    let data = running.right_data().unwrap();
    let [wrong, full] = ["bad_mac1", "report-full"].map(|reason| dropped(SHOAL, data, reason).unwrap());
    let [calm, elsewhere, here, rate] = [calm, elsewhere, here, rates].map(median);
    let figure = format!("{here:.0} Mb/s beside {rate:.0} messages a second, {elsewhere:.0} Mb/s if they go elsewhere");
    judged("udp, forged initiations", &figure, here / elsewhere, "of the speed", Limit::AtLeast(LIMIT));
    context(&format!("{calm:.0} Mb/s without any: {:.2} of that speed", here / calm));
    context(&format!("{wrong} were dropped for their MAC, {full} reports found no place; medians of {rounds}"));
}
