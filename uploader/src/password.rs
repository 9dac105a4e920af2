//! Where passwords come from: file, command, SHOAL_PASSWORD, terminal. Never argv; they are wiped after use and shown
//! nowhere.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use shoal_client::client::Failure;
use zeroize::Zeroizing;

use crate::cli::PasswordArgs;
use crate::exit::{Problem, failure_of_io};

/// Longest password, bytes.
const PASSWORD_MAX: usize = 4096;

/// A password's bytes.
pub(crate) type Password = Zeroizing<Vec<u8>>;

/// Why there is no password.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PasswordError {
    /// The file cannot be read.
    #[error("cannot read the password file {path}: {cause}")]
    File {
        /// Which.
        path: String,
        /// The system's reason.
        cause: io::Error,
    },
    /// The command cannot be run.
    #[error("cannot run the password command: {0}")]
    Command(io::Error),
    /// The command ended with an error.
    #[error("the password command failed: {0}")]
    CommandFailed(String),
    /// Nothing was given.
    #[error("the password is empty")]
    Empty,
    /// Too much was given.
    #[error("the password is longer than {PASSWORD_MAX} bytes")]
    TooLong,
    /// The two prompts differ.
    #[error("the two passwords differ")]
    Differ,
    /// There is nobody to ask.
    #[error("a password is needed and there is no terminal to ask for it")]
    NoTerminal,
}

impl From<PasswordError> for Problem {
    fn from(error: PasswordError) -> Self {
        let what = error.to_string();
        match error {
            PasswordError::File { cause, .. } => Self::new(
                failure_of_io(&cause),
                what,
                "the path or its permissions are wrong",
                "correct --password-file",
            ),
            PasswordError::Command(_) | PasswordError::CommandFailed(_) => {
                Self::new(Failure::Other, what, "see its own message above", "try the command by itself")
            }
            PasswordError::Empty | PasswordError::TooLong | PasswordError::Differ => {
                Self::usage(what, "1 to 4096 bytes are wanted, the same twice", "give the password again")
            }
            PasswordError::NoTerminal => Self::usage(
                what,
                "input is not a terminal and no other source was named",
                "use --password-file, --password-command or SHOAL_PASSWORD",
            ),
        }
    }
}

/// The password: from the arguments' source, else SHOAL_PASSWORD, else asked for (`twice` where a mistake would cost the
/// upload). Blocks.
pub(crate) fn read(
    arguments: &PasswordArgs,
    variable: impl Fn(&str) -> Option<OsString>,
    twice: bool,
) -> Result<Password, PasswordError> {
    let password = if let Some(path) = &arguments.password_file {
        let failed = |cause| PasswordError::File { path: path.display().to_string(), cause };
        without_newline(bounded(File::open(path).map_err(failed)?).map_err(failed)?)
    } else if let Some(command) = &arguments.password_command {
        of_command(command)?
    } else if let Some(value) = variable("SHOAL_PASSWORD") {
        Zeroizing::new(value.into_vec())
    } else {
        prompt(twice)?
    };
    match password.len() {
        0 => Err(PasswordError::Empty),
        1..=PASSWORD_MAX => Ok(password),
        _ => Err(PasswordError::TooLong),
    }
}

/// At most one byte and a newline more than a password may have.
fn bounded(source: impl Read) -> io::Result<Password> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(PASSWORD_MAX + 2));
    source.take(PASSWORD_MAX as u64 + 2).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn without_newline(mut bytes: Password) -> Password {
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
    }
    bytes
}

fn of_command(command: &OsString) -> Result<Password, PasswordError> {
    let child = Command::new("sh").arg("-c").arg(command).stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
    let mut child = child.map_err(PasswordError::Command)?;
    let printed = match child.stdout.take() {
        Some(stdout) => bounded(stdout).map_err(PasswordError::Command)?,
        None => Zeroizing::new(Vec::new()),
    };
    let status = child.wait().map_err(PasswordError::Command)?;
    if status.success() { Ok(without_newline(printed)) } else { Err(PasswordError::CommandFailed(status.to_string())) }
}

/// The terminal as it was before a prompt switched its echo off.
static TERMINAL: Mutex<Option<Termios>> = Mutex::new(None);

fn prompt(twice: bool) -> Result<Password, PasswordError> {
    let terminal = File::open("/dev/tty").map_err(|_| PasswordError::NoTerminal)?;
    *TERMINAL.lock().unwrap_or_else(PoisonError::into_inner) = tcgetattr(&terminal).ok();
    let ask = |text: &str| {
        let typed = rpassword::prompt_password(text).map_err(|_| PasswordError::NoTerminal)?;
        Ok(Zeroizing::new(typed.into_bytes()))
    };
    let first: Password = ask("Password: ")?;
    let same = !twice || *ask("Again: ")? == *first;
    *TERMINAL.lock().unwrap_or_else(PoisonError::into_inner) = None;
    if same { Ok(first) } else { Err(PasswordError::Differ) }
}

/// Gives an interrupted prompt's terminal its echo back.
pub(crate) fn restore_terminal() {
    let saved = TERMINAL.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let (Some(saved), Ok(terminal)) = (saved, File::open("/dev/tty")) {
        let _ = tcsetattr(&terminal, OptionalActions::Flush, &saved);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(arguments: &PasswordArgs, variable: Option<&str>) -> Result<Vec<u8>, String> {
        let variable = |name: &str| (name == "SHOAL_PASSWORD").then(|| variable.map(OsString::from)).flatten();
        read(arguments, variable, true).map(|password| password.to_vec()).map_err(|error| error.to_string())
    }

    fn file(bytes: &[u8]) -> Result<Vec<u8>, String> {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("p");
        std::fs::write(&path, bytes).unwrap();
        from(&PasswordArgs { password_file: Some(path), password_command: None }, Some("other"))
    }

    #[test]
    fn files_lose_one_newline() {
        assert_eq!(file(b"secret\n").unwrap(), b"secret");
        assert_eq!(file(b"secret\n\n").unwrap(), b"secret\n");
        assert_eq!(file(b" \xff ").unwrap(), b" \xff ");
        assert!(file(b"\n").is_err() && file(b"").is_err());
        assert_eq!(file(&[b'x'; 4096]).unwrap().len(), 4096);
        assert!(file(&[b'x'; 4097]).unwrap_err().contains("longer"));
        assert!(file(&[b'x'; 100_000]).unwrap_err().contains("longer"));
    }

    #[test]
    fn commands_and_variables() {
        let command =
            |text: &str| from(&PasswordArgs { password_file: None, password_command: Some(text.into()) }, None);
        assert_eq!(command("echo secret").unwrap(), b"secret");
        assert!(command("echo secret; exit 3").unwrap_err().contains("failed"));
        assert!(command("true").unwrap_err().contains("empty"));
        assert_eq!(from(&PasswordArgs::default(), Some("env\n")).unwrap(), b"env\n");
        assert!(from(&PasswordArgs::default(), Some("")).is_err());
    }

    #[test]
    fn a_missing_file_is_not_found() {
        let arguments = PasswordArgs { password_file: Some("/nonexistent/p".into()), password_command: None };
        let problem = Problem::from(read(&arguments, |_| None, false).unwrap_err());
        assert_eq!(problem.failure, Failure::NotFound);
    }
}
