//! Runs a program as if the kernel knew fewer offloads of TUN devices than it does: `test-old-kernel udp|all PROGRAM..`.
//! A filter of system calls refuses to switch on those of UDP, as kernels before Linux 6.2 do, or all of them; nothing
//! else is different, and the program knows nothing of it.

use std::collections::BTreeMap;
use std::env;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result, bail};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

/// TUNSETOFFLOAD (linux/if_tun.h): `_IOW('T', 208, unsigned int)`.
const SET_OFFLOAD: u64 = 0x4004_54d0;
/// TUN_F_USO4 and TUN_F_USO6, which are always asked for together.
const UDP: u64 = 0x60;
/// TUN_F_CSUM, without which the kernel gives nothing else; to switch all off is taken by every kernel.
const CHECKSUM: u64 = 1;
/// What a kernel says that does not know what is asked for (EINVAL).
const INVALID: u32 = 22;

fn main() -> Result<()> {
    let mut arguments = env::args_os().skip(1);
    let kind = arguments.next().and_then(|kind| kind.into_string().ok());
    let program = arguments.next().context("no program")?;
    let is_set = SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, SET_OFFLOAD)?;
    let refused = match kind.as_deref() {
        Some("udp") => UDP,
        Some("all") => CHECKSUM,
        other => bail!("udp or all, not {other:?}"),
    };
    let asks = SeccompCondition::new(2, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(refused), refused)?;
    let rules = BTreeMap::from([(ioctl()?, vec![SeccompRule::new(vec![is_set, asks])?])]);
    let refuse = SeccompAction::Errno(INVALID);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, env::consts::ARCH.try_into()?)?;
    seccompiler::apply_filter(&BpfProgram::try_from(filter)?)?;
    Err(Command::new(program).args(arguments).exec().into())
}

/// The number of the call.
fn ioctl() -> Result<i64> {
    match env::consts::ARCH {
        "x86_64" => Ok(16),
        "aarch64" | "riscv64" => Ok(29),
        other => bail!("the number of ioctl on {other} is not known here"),
    }
}
