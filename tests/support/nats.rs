//! A real nats-server; `NATS_SERVER` says where the program is.

use std::{
    fs,
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

/// It is killed when it is dropped; who wants it again runs it again.
pub(crate) struct NatsServer {
    child: Option<Child>,
    /// Of its own, empty at first: its configuration, and what it keeps.
    pub(crate) dir: PathBuf,
    pub(crate) port: u16,
}

impl NatsServer {
    /// One that does not run yet.
    pub(crate) fn new(name: &str) -> Self {
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("nats").join(name);
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Self { child: None, dir, port }
    }

    /// Writes its configuration: where it listens, and `rest`.
    pub(crate) fn configure(&self, rest: &str) {
        let config = format!("listen: 127.0.0.1:{}\n{rest}", self.port);
        fs::write(self.dir.join("nats.conf"), config).unwrap();
    }

    pub(crate) fn run(&mut self) {
        let program = std::env::var("NATS_SERVER").unwrap_or_else(|_| "nats-server".to_owned());
        let mut command = Command::new(program);
        command.arg("-c").arg(self.dir.join("nats.conf")).stdout(Stdio::null()).stderr(Stdio::null());
        self.child = Some(command.spawn().expect("nats-server is installed by scripts/test.sh"));
    }

    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Has it read its configuration anew.
    pub(crate) fn reload(&self) {
        let id = self.child.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args(["-HUP", &id]).status().unwrap().success());
    }

    pub(crate) async fn connect(&self, user: &str, password: &str) -> async_nats::Client {
        let options = async_nats::ConnectOptions::with_user_and_password(user.into(), password.into());
        options.retry_on_initial_connect().connect(format!("127.0.0.1:{}", self.port)).await.unwrap()
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.kill();
        }
    }
}
