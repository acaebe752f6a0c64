//! Lines that Fly's init, the kernel and Firecracker write around an app's own: the platform's, though Fly sends them as the app's.
//!
//! Each form is as narrow as the lines seen allow, because an app may write what it likes: what looks only a little like one of these
//! stays the app's. Seen in logs of 2022 to 2026.

/// What Fly's init says, behind its level. The longest common beginnings: names, numbers and addresses follow.
const INIT: [&[u8]; 16] = [
    b"INFO Starting init (commit: ",
    b"INFO Preparing to run: ",
    b"INFO [fly api proxy] listening at ",
    b"INFO Mounting /dev/",
    b"INFO Umounting /dev/",
    b"INFO Resized /",
    b"INFO Sending signal SIG",
    b"INFO Main child exited normally with code: ",
    b"INFO Main child exited with signal (with signal '",
    b"INFO Process appears to have been OOM killed!",
    b"INFO Starting clean up.",
    b"WARN Reaped child process with pid: ",
    b"WARN hallpass exited, pid: ",
    b"WARN could not unmount /",
    b"WARN no user named ",
    b"ERROR Error: failed to spawn command: ",
];

/// Whether a line that Fly calls the app's is one of the platform's.
pub(super) fn is_boot_line(message: &[u8]) -> bool {
    match message.first() {
        Some(b' ') => INIT.iter().any(|words| message[1..].starts_with(words)),
        Some(b'[') => is_of_kernel(message),
        Some(b'0'..=b'9') => is_of_firecracker(message) || is_of_ssh(message),
        Some(b'R') => message.starts_with(b"Running Firecracker v"),
        Some(b'L') => message.starts_with(b"Listening on API socket (\"/fc.sock\")"),
        _ => false,
    }
}

/// `[    0.036862] PCI: …`: seconds in at least five places, blanks first, and six digits.
fn is_of_kernel(message: &[u8]) -> bool {
    let Some((time, rest)) = message[1..].split_once_at(b']') else { return false };
    let Some((seconds, micros)) = time.split_once_at(b'.') else { return false };
    let digits = seconds.trim_ascii_start();
    rest.first() == Some(&b' ')
        && micros.len() == 6
        && seconds.len() >= 5
        && (seconds.len() == 5 || digits.len() == seconds.len())
        && is_number(digits)
        && is_number(micros)
        && seconds[..seconds.len() - digits.len()].iter().all(|&byte| byte == b' ')
}

/// `2026-01-15T11:19:12.315001397 [01KF0NKGMJW8866MYQ14GQHFTY:main] …`: a time without a zone, the VM's ULID and a thread.
fn is_of_firecracker(message: &[u8]) -> bool {
    let Some((time, rest)) = message.split_at_checked(29) else { return false };
    let Some((id, rest)) = rest.strip_prefix(b" [").and_then(|rest| rest.split_at_checked(26)) else { return false };
    let is_time = like(time, b"0000-00-00T00:00:00.000000000");
    let is_id = id.iter().all(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase());
    is_time && is_id && (rest.starts_with(b":main] ") || rest.starts_with(b":fc_"))
}

/// `2025/09/27 11:01:08 INFO SSH listening listen_address=[fdaa:…`, and as older ones say it.
fn is_of_ssh(message: &[u8]) -> bool {
    let Some((time, words)) = message.split_at_checked(20) else { return false };
    let is_words =
        words.starts_with(b"INFO SSH listening listen_address=[") || words.starts_with(b"listening on [fdaa:");
    like(time, b"0000/00/00 00:00:00 ") && is_words
}

fn is_number(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(u8::is_ascii_digit)
}

/// Whether `text` is `form` with any digits for its zeros.
fn like(text: &[u8], form: &[u8]) -> bool {
    text.len() == form.len()
        && text.iter().zip(form).all(|(byte, form)| if *form == b'0' { byte.is_ascii_digit() } else { byte == form })
}

trait SplitOnceAt {
    fn split_once_at(&self, byte: u8) -> Option<(&[u8], &[u8])>;
}

impl SplitOnceAt for [u8] {
    /// Before and behind the first `byte`, which is among the first few dozen or not looked for.
    fn split_once_at(&self, byte: u8) -> Option<(&[u8], &[u8])> {
        let at = self.iter().take(32).position(|&other| other == byte)?;
        Some((&self[..at], &self[at + 1..]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_platform_writes_is_told() {
        for line in [
            " INFO Starting init (commit: 5293a085)...",
            " INFO Preparing to run: `/app/bin/server` as nobody",
            " INFO [fly api proxy] listening at /.fly/api",
            " INFO Main child exited normally with code: 1",
            " INFO Main child exited with signal (with signal 'SIGKILL', core dumped? false)",
            " INFO Process appears to have been OOM killed!",
            " INFO Starting clean up.",
            " INFO Umounting /dev/vdb from /pb/pb_data",
            " INFO Sending signal SIGINT to main child process w/ PID 640",
            " WARN hallpass exited, pid: 306, status: signal: 15 (SIGTERM)",
            " WARN could not unmount /rootfs: EINVAL: Invalid argument",
            "[    0.000000] Linux version 5.15.98-fly",
            "[    0.036862] PCI: Fatal: No config space access function found",
            "[  129.091780] reboot: Restarting system",
            "[399964.080915] reboot: Restarting system",
            "2026-01-15T11:19:12.315001397 [01KF0NKGMJW8866MYQ14GQHFTY:main] Running Firecracker v1.12.1",
            "2026-01-15T11:19:12.315178457 [01KF0NKGMJW8866MYQ14GQHFTY:main] Listening on API socket (\"/fc.sock\").",
            "Running Firecracker v1.7.0",
            "2025/09/27 11:01:08 INFO SSH listening listen_address=[fdaa:2e:691:a7b:4a2:7b1d:b37a:2]:22",
            "2023/11/15 03:55:24 listening on [fdaa:0:fe1f:a7b:13e:fd08:af5b:2]:22 (DNS: [fdaa::3]:53)",
        ] {
            assert!(is_boot_line(line.as_bytes()), "{line}");
        }
    }

    #[test]
    fn what_an_app_writes_is_the_apps() {
        for line in [
            "",
            " ",
            "[",
            " INFO my_app::server: listening",
            "INFO Starting init (commit: 5293a085)...",
            "[12.345678] a tick",
            "[  12.3456789] a tick",
            "[   1 2.345678] a tick",
            "[   12.345678]",
            "[2026-11-29 12:00:00.123456] a line",
            "[2026-11-29T12:00:00Z INFO  app] a line",
            "2026-01-15T11:19:12.315001397Z [01KF0NKGMJW8866MYQ14GQHFTY:main] not without a zone",
            "2026-01-15T11:19:12.315001397 [info] hello",
            "2023/11/15 03:55:24 listening on :8080",
            "2023/11/15 03:55:24",
            "Running migrations",
            "Listening on port 3000",
        ] {
            assert!(!is_boot_line(line.as_bytes()), "{line}");
        }
    }
}
