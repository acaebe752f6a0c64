//! Servers of our own: two yardsticks (what the transport alone costs, and what the straightforward server costs), and a
//! drain to test `crash` against.

pub(crate) mod ceiling;
pub(crate) mod keeper;
pub(crate) mod naive;

use crate::failure::Failure;
use clap::Args;
use std::net::SocketAddr;
use tokio::net::{TcpListener, TcpStream};

/// Where and how wide to serve.
#[derive(Args, Clone, Debug)]
pub(crate) struct ServeArgs {
    /// Where to listen; port 0 asks the OS
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Threads; 1 is a current-thread runtime, so that CPU per line compares fairly
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: u16,
}

/// Serves every connection with `connection` until the process is ended.
pub(crate) fn serve<F, T>(args: &ServeArgs, connection: F) -> Result<(), Failure>
where
    F: Fn(TcpStream) -> T,
    T: Future<Output = ()> + Send + 'static,
{
    let mut builder = match args.threads {
        1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    let runtime = builder.worker_threads(args.threads.into()).enable_all().build().map_err(Failure::io)?;
    runtime.block_on(async {
        let listener = TcpListener::bind(args.listen).await.map_err(Failure::io)?;
        let address = listener.local_addr().map_err(Failure::io)?;
        eprintln!("ingest listening on http://{address}");
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    // Without it the delayed ACK of a small answer would be measured.
                    let _ = stream.set_nodelay(true);
                    tokio::spawn(connection(stream));
                }
                // Most likely out of descriptors, which passes as connections close.
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
            }
        }
    })
}
