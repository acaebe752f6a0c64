//! What a scraper sees: the balances, the closed sets, and a real Prometheus on top of them.

#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a panic here is the test's failure report")]

mod support;

use std::{
    collections::HashMap,
    io::Write,
    net::{SocketAddr, TcpListener},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use fleetdrain::{LogCollector, LogDrainServer, LogStream};
use hyper::{Method, StatusCode};
use support::{Client, fly_record, text};

async fn start() -> (LogCollector, LogDrainServer) {
    let collector = LogCollector::default();
    let mut server = LogDrainServer::new(collector.clone()).host("127.0.0.1").control("127.0.0.1:0");
    server.start().await.unwrap();
    (collector, server)
}

/// Every sample by its name, those of one family added up.
fn sums(metrics: &str) -> HashMap<&str, f64> {
    let mut sums = HashMap::new();
    for line in metrics.lines().filter(|line| !line.starts_with('#')) {
        let (series, value) = line.rsplit_once(' ').unwrap();
        let name = series.split('{').next().unwrap();
        *sums.entry(name).or_insert(0.0) += value.parse::<f64>().unwrap();
    }
    sums
}

fn assert_metric_balances(sums: &HashMap<&str, f64>) {
    let of = |name: &str| sums[format!("fleetdrain_{name}").as_str()];
    let fates = ["accepted", "filtered", "unrouted", "rejected"].map(|fate| of(&format!("lines_{fate}_total")));
    assert_eq!(of("lines_received_total"), fates.iter().sum::<f64>());
    let went = of("queue_lines_delivered_total") + of("queue_lines_dropped_total") + of("queue_lines");
    assert_eq!(of("queue_lines_in_total"), went);
}

/// Lines of every fate: 3 accepted of which 1 is read, 1 filtered, 1 unrouted, 1 rejected.
async fn one_of_each(collector: &LogCollector, ingest: SocketAddr) {
    let mut stream = LogStream::new(collector.subscribe("a").unwrap());
    let stderr = fly_record("a", "not wanted").replace("{\"event\"", "{\"stream\":\"stderr\",\"event\"");
    let lines = [
        fly_record("a", "one"),
        fly_record("a", "two"),
        fly_record("a", "three"),
        stderr,
        fly_record("b", "alone"),
        "{}".to_owned(),
    ];
    let (status, answer) = Client::connect(ingest).await.post(&[], lines.join("\n")).await;
    assert_eq!(status, StatusCode::OK);
    let fates = ["received", "accepted", "filtered", "unrouted", "rejected"];
    assert_eq!(fates.map(|fate| answer[fate].as_u64().unwrap()), [6, 3, 1, 1, 1], "{answer}");
    assert_eq!(stream.next().await.unwrap().message(), "one");
}

#[tokio::test]
async fn metrics_and_stats_tell_the_same_and_balance() {
    let (collector, mut server) = start().await;
    one_of_each(&collector, server.ingest_addr().unwrap()).await;
    let metrics = text(server.control_addr().unwrap(), "/metrics").await;
    let sums = sums(&metrics);
    assert_metric_balances(&sums);
    let stats = collector.stats();
    assert_eq!(sums["fleetdrain_lines_received_total"], stats.lines_received as f64);
    assert_eq!((stats.queue_lines_delivered, stats.queue_lines), (1, 2));
    assert_eq!(sums["fleetdrain_queue_lines"], 2.0);
    assert_eq!(sums["fleetdrain_delivery_latency_seconds_count"], 1.0, "one group was taken");
    assert!(sums["fleetdrain_log_lag_seconds_count"] >= 1.0);
    assert!(
        metrics.contains("fleetdrain_machine_lines_total{machine=\"a\",source_app=\"my-app\",source_region=\"lax\"} 4")
    );
    let lag = "\nfleetdrain_machine_lag_seconds{machine=\"a\",source_app=\"my-app\",source_region=\"lax\"} ";
    let (_, lag) = metrics.split_once(lag).unwrap();
    assert!(lag.split_once('\n').unwrap().0.parse::<f64>().unwrap() > 0.0, "two lines wait");
    server.stop().await;
}

struct Prometheus {
    child: Child,
    addr: SocketAddr,
    dir: std::path::PathBuf,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

impl Prometheus {
    fn scraping(target: SocketAddr) -> Self {
        let addr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let dir = std::env::temp_dir().join(format!("fleetdrain-prometheus-{}", addr.port()));
        std::fs::create_dir_all(&dir).unwrap();
        let config = dir.join("prometheus.yml");
        let yaml = format!(
            "global: {{scrape_interval: 200ms}}\nscrape_configs:\n- job_name: fleetdrain\n  static_configs: [{{targets: ['{target}']}}]\n"
        );
        std::fs::File::create(&config).unwrap().write_all(yaml.as_bytes()).unwrap();
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", dir.join("data").display()))
            .arg(format!("--web.listen-address={addr}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, addr, dir }
    }

    /// The first value of a query, once there is one.
    async fn value(&self, query: &str) -> f64 {
        let path = format!("/api/v1/query?query={query}");
        let deadline = Instant::now() + Duration::from_secs(60);
        while Instant::now() < deadline {
            if tokio::net::TcpStream::connect(self.addr).await.is_ok() {
                let (_, answer) = Client::connect(self.addr).await.call(Method::GET, &path).await;
                if let Some(value) = answer["data"]["result"][0]["value"][1].as_str() {
                    return value.parse().unwrap();
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("no value for {query}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs prometheus (Debian package prometheus)"]
async fn a_real_prometheus_scrapes_a_loaded_drain() {
    let (collector, mut server) = start().await;
    one_of_each(&collector, server.ingest_addr().unwrap()).await;
    let prometheus = Prometheus::scraping(server.control_addr().unwrap());
    assert_eq!(prometheus.value("fleetdrain_lines_received_total").await, 6.0);
    assert_eq!(
        prometheus
            .value("up{job=\"fleetdrain\"}".replace('"', "%22").replace('{', "%7B").replace('}', "%7D").as_str())
            .await,
        1.0
    );
    let unaccounted = "fleetdrain_queue_lines_in_total-fleetdrain_queue_lines_delivered_total-sum(fleetdrain_queue_lines_dropped_total)-fleetdrain_queue_lines";
    let unaccounted = unaccounted.replace('-', "%20-%20on()%20");
    assert_eq!(prometheus.value(&unaccounted).await, 0.0);
    server.stop().await;
}
