//! Other tunnels, started as their manuals say: two ends over one cable, nothing tuned. None is installed or built here.
//!
//! A recipe is four scripts of `sh`: what is prepared, what runs on the left and on the right machine until it is ended,
//! and what is done once both run. They find `A` and `B`, the namespaces of the two machines, and `W`, a fresh folder they
//! begin in. Below the tunnel the machines are 10.77.0.1 and 10.77.0.2, in it 10.88.0.1 and 10.88.0.2.

use std::env;
use std::process::{Command, Stdio};

/// How one is started.
#[derive(Debug)]
pub(crate) struct Rival {
    pub(crate) name: &'static str,
    /// Programs it needs.
    needs: &'static [&'static str],
    pub(crate) prepare: &'static str,
    pub(crate) left: &'static str,
    pub(crate) right: &'static str,
    pub(crate) then: &'static str,
}

impl Rival {
    /// Whether all it needs is on the path or in `PEERS_BIN`.
    pub(crate) fn is_installed(&self) -> bool {
        let path = env::var("PATH").unwrap_or_default();
        let path = env::var("PEERS_BIN").map_or_else(|_| path.clone(), |peers| format!("{peers}:{path}"));
        self.needs.iter().all(|program| {
            let mut command = Command::new("sh");
            command.args(["-c", &format!("command -v {program}")]).env("PATH", &path).stdin(Stdio::null());
            command.output().is_ok_and(|output| output.status.success())
        })
    }
}

const KEYS: &str = "for n in A B; do wg genkey >k$n; wg pubkey <k$n >p$n; done";

/// Device names are those of the programs' own examples; the two ends have the same settings.
macro_rules! wireguard {
    ($name:literal, $program:literal, $device:literal, $run:literal) => {
        Rival {
            name: $name,
            needs: &["wg", $program],
            prepare: KEYS,
            left: concat!("exec ", $run, " ", $device, "A"),
            right: concat!("exec ", $run, " ", $device, "B"),
            then: concat!(
                "ip netns exec $A wg set ",
                $device,
                "A private-key kA listen-port 51820 peer $(cat pB) \
                 endpoint 10.77.0.2:51820 allowed-ips 10.88.0.0/24\n\
                 ip netns exec $B wg set ",
                $device,
                "B private-key kB listen-port 51820 peer $(cat pA) \
                 endpoint 10.77.0.1:51820 allowed-ips 10.88.0.0/24\n\
                 ip -n $A addr add 10.88.0.1/24 dev ",
                $device,
                "A; ip -n $A link set ",
                $device,
                "A up mtu 1420\n\
                 ip -n $B addr add 10.88.0.2/24 dev ",
                $device,
                "B; ip -n $B link set ",
                $device,
                "B up mtu 1420"
            ),
        }
    };
}

const TINC: &str = "
for n in A B; do mkdir -p t$n/hosts; done
i=1
for n in A B; do
  printf 'Name = n%s\\nDeviceType = tun\\nInterface = tinc%s\\nDirectOnly = yes\\nAddressFamily = ipv4\\n' $n $n >t$n/tinc.conf
  printf 'Subnet = 10.88.0.%s/32\\nAddress = 10.77.0.%s\\n' $i $i >t$n/hosts/n$n
  yes '' | tincd -c $W/t$n -K2048 >/dev/null 2>&1
  printf '#!/bin/sh\\nip link set $INTERFACE up mtu 1400\\nip addr add 10.88.0.%s/24 dev $INTERFACE\\n' $i >t$n/tinc-up
  chmod +x t$n/tinc-up
  i=$((i+1))
done
cp tA/hosts/nA tB/hosts/; cp tB/hosts/nB tA/hosts/; echo 'ConnectTo = nA' >>tB/tinc.conf";

const NEBULA: &str = "
nebula-cert ca -name x
nebula-cert sign -name a -ip 10.88.0.1/24
nebula-cert sign -name b -ip 10.88.0.2/24
for n in a b; do
  lh=true; hosts='[]'
  if [ $n = b ]; then lh=false; hosts='[\"10.88.0.1\"]'; fi
  cat >neb$n.yml <<Y
pki: {ca: $W/ca.crt, cert: $W/$n.crt, key: $W/$n.key}
static_host_map: {\"10.88.0.1\": [\"10.77.0.1:4242\"]}
lighthouse: {am_lighthouse: $lh, hosts: $hosts}
listen: {host: 0.0.0.0, port: 4242}
punchy: {punch: true}
tun: {dev: neb$n, mtu: 1300}
firewall: {outbound: [{port: any, proto: any, host: any}], inbound: [{port: any, proto: any, host: any}]}
Y
done";

/// All that can be measured beside, if they are there.
pub(crate) const RIVALS: [Rival; 9] = [
    Rival {
        name: "easytier",
        needs: &["easytier-core"],
        prepare: "",
        left: "exec easytier-core --network-name x --network-secret y -i 10.88.0.1 --listeners udp://0.0.0.0:11010 \
               --dev-name et0 --rpc-portal 127.0.0.1:15888",
        right: "exec easytier-core --network-name x --network-secret y -i 10.88.0.2 --listeners udp://0.0.0.0:11010 \
                -p udp://10.77.0.1:11010 --dev-name et0 --rpc-portal 127.0.0.1:15888",
        then: "",
    },
    Rival {
        name: "nebula",
        needs: &["nebula", "nebula-cert"],
        prepare: NEBULA,
        left: "exec nebula -config neba.yml",
        right: "exec nebula -config nebb.yml",
        then: "",
    },
    wireguard!("wireguard-go", "wireguard-go", "wgo", "env LOG_LEVEL=error wireguard-go -f"),
    wireguard!(
        "boringtun",
        "boringtun-cli",
        "btn",
        "env WG_SUDO=1 boringtun-cli -f --disable-drop-privileges --disable-connected-udp --log /dev/null"
    ),
    wireguard!("gotatun", "gotatun", "gtn", "gotatun -f --disable-drop-privileges"),
    Rival {
        name: "tinc",
        needs: &["tincd"],
        prepare: TINC,
        left: "exec tincd -D -c $W/tA --pidfile=$W/tA/pid",
        right: "exec tincd -D -c $W/tB --pidfile=$W/tB/pid",
        then: "",
    },
    Rival {
        name: "vpncloud",
        needs: &["vpncloud"],
        prepare: "",
        left: "exec vpncloud --config /dev/null -l 3210 --password x --ip 10.88.0.1 -t tun --no-port-forwarding -d vc0",
        right: "exec vpncloud -l 3210 -c 10.77.0.1:3210 --password x --ip 10.88.0.2 -t tun --no-port-forwarding -d vc0",
        then: "",
    },
    Rival {
        name: "n2n",
        needs: &["supernode", "edge"],
        prepare: "",
        left: "supernode -f -l 7777 & sleep 0.5; exec edge -f -d n2nA -c x -k y -a 10.88.0.1 -l 10.77.0.1:7777",
        right: "exec edge -f -d n2nB -c x -k y -a 10.88.0.2 -l 10.77.0.1:7777",
        then: "",
    },
    Rival {
        name: "openvpn",
        needs: &["openvpn"],
        prepare: "openvpn --genkey secret s.key",
        left: "exec openvpn --dev tun0 --secret s.key --cipher AES-256-CBC --allow-deprecated-insecure-static-crypto \
               --proto udp --verb 1 --sndbuf 1000000 --rcvbuf 1000000 --ifconfig 10.88.0.1 10.88.0.2 --local 10.77.0.1",
        right: "exec openvpn --dev tun0 --secret s.key --cipher AES-256-CBC --allow-deprecated-insecure-static-crypto \
                --proto udp --verb 1 --sndbuf 1000000 --rcvbuf 1000000 --ifconfig 10.88.0.2 10.88.0.1 --remote 10.77.0.1",
        then: "",
    },
];
