//! A drain that is built without sinks.

pub(crate) mod running {
    //! No sinks, from start to stop.

    use std::convert::Infallible;

    use tokio::time::Instant;
    use tokio_util::sync::CancellationToken;

    use crate::{
        collector::LogCollector,
        config::Config,
        http::read::{SinkCall, SinkRefusal, SinksHook},
    };

    /// There is none that could be bad.
    pub(crate) type BadSink = Infallible;

    /// None.
    #[derive(Default)]
    pub(crate) struct Sinks;

    /// Nothing is added, changed or removed.
    #[derive(Debug)]
    pub(crate) struct Swapped;

    impl std::fmt::Display for Swapped {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("none")
        }
    }

    impl Sinks {
        #[expect(clippy::unused_async, reason = "as with sinks")]
        pub(crate) async fn start(_: &LogCollector, _: &Config, _: &CancellationToken) -> Result<Self, BadSink> {
            Ok(Self)
        }

        pub(crate) fn hook(&self) -> SinksHook {
            Box::new(|call| match call {
                SinkCall::List => Ok(serde_json::json!({ "sinks": [] })),
                SinkCall::Pause { name, .. } | SinkCall::Rewind { name, .. } => {
                    Err(SinkRefusal::Unknown { name, known: String::new() })
                }
            })
        }

        #[expect(clippy::unused_async, reason = "as with sinks")]
        pub(crate) async fn swap(&self, _: &Config) -> Result<Swapped, BadSink> {
            Ok(Swapped)
        }

        #[expect(clippy::unused_async, reason = "as with sinks")]
        pub(crate) async fn stop(&self, _: Instant) {}
    }
}
