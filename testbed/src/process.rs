//! A program that runs until its value is dropped, with a folder for its files and its log.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio, id};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How often a program is looked at while something is awaited.
const PERIOD: Duration = Duration::from_millis(20);

/// A temporary folder, removed with its value.
#[derive(Debug)]
pub struct Folder(PathBuf);

/// A running program, ended when dropped. When a test panics, the program's log is printed.
#[derive(Debug)]
pub struct Process {
    child: Child,
    folder: Folder,
}

impl Folder {
    /// Creates an empty folder.
    pub fn create() -> io::Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("spillway-{}-{number}", id()));
        // A killed process with the same number may have left it.
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Process {
    /// Starts a program. What it writes to standard error is its log.
    pub fn start(mut command: Command, folder: Folder) -> io::Result<Self> {
        let log = fs::File::create(folder.path().join("log"))?;
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn()?;
        Ok(Self { child, folder })
    }

    /// The process's number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Where its files are.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What it logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder().join("log")).unwrap_or_default()
    }

    /// Waits until it is ready, by the caller's own test.
    pub async fn until(
        &mut self,
        patience: Duration,
        mut is_ready: impl AsyncFnMut() -> bool,
    ) -> Result<(), String> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(end) = self.end() {
                return Err(end);
            }
            if is_ready().await {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("not ready after {patience:?}:\n{}", self.log()));
            }
            sleep(PERIOD).await;
        }
    }

    /// Waits until it ends by itself, and says how it ended.
    pub async fn ended(&mut self) -> String {
        loop {
            if let Some(end) = self.end() {
                return end;
            }
            sleep(PERIOD).await;
        }
    }

    /// Ends it now.
    pub fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn end(&mut self) -> Option<String> {
        let status = match self.child.try_wait() {
            Ok(status) => status?.to_string(),
            Err(error) => error.to_string(),
        };
        Some(format!("ended by itself ({status}):\n{}", self.log()))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- the log of process {} ---\n{}", self.id(), self.log());
        }
    }
}

/// A port on 127.0.0.1 on which nobody listens, and which no two callers get. It is below the ports that systems
/// give to connections: one of those could take it before its program listens.
pub fn free_port() -> u16 {
    const PORTS: Range<u16> = 10_000..30_000;
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    loop {
        let number = (id() % 1_000) * 101 + TAKEN.fetch_add(1, Ordering::Relaxed);
        let offset = number % u32::from(PORTS.end - PORTS.start);
        let port = PORTS.start + u16::try_from(offset).unwrap_or_default();
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Process {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Process::start(command, Folder::create().unwrap()).unwrap()
    }

    #[tokio::test]
    async fn a_program_that_ends_too_soon_shows_its_log() {
        let mut process = shell("echo no such file >&2; exit 3");
        let end = process.until(Duration::from_secs(60), async || false).await.unwrap_err();
        assert!(end.contains("exit status: 3") && end.contains("no such file"), "{end}");
    }

    #[tokio::test]
    async fn a_program_that_is_never_ready_is_given_up() {
        let mut process = shell("echo starting >&2; exec sleep 60");
        let end = process.until(Duration::from_millis(1), async || false).await.unwrap_err();
        assert!(end.contains("not ready after 1ms"), "{end}");
    }

    #[test]
    fn dropping_ends_the_program_and_removes_its_folder() {
        let process = shell("exec sleep 60");
        let (id, folder) = (process.id(), process.folder().to_owned());
        assert!(folder.is_dir());
        drop(process);
        assert!(!folder.exists());
        assert!(!Command::new("kill").args(["-0", &id.to_string()]).status().unwrap().success());
    }

    #[test]
    fn no_port_is_given_twice() {
        let mut ports: Vec<u16> = (0..50).map(|_| free_port()).collect();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 50);
    }
}
