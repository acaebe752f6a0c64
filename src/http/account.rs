//! The account of every record, as a 200 carries it.

use std::fmt::Write;

use crate::admission::Receipt;

/// Told with every answer in which a record was unrouted.
const UNROUTED_NOTE: &str = "no queue is subscribed to the unrouted lines' machines, so nothing consumes them; logs and tail show them all the same";

/// Writes the account of a body that was taken, now or (`duplicate`) before.
pub(super) fn account(receipt: &Receipt, duplicate: bool) -> String {
    let mut json = String::with_capacity(160);
    write_account(&mut json, receipt, duplicate).expect("a String takes everything");
    json
}

fn write_account(json: &mut String, receipt: &Receipt, duplicate: bool) -> std::fmt::Result {
    let Receipt { received, accepted, filtered, unrouted, rejected, errors, ack: _ } = receipt;
    write!(json, r#"{{"received":{received},"accepted":{accepted},"filtered":{filtered}"#)?;
    write!(json, r#","unrouted":{unrouted},"rejected":{rejected},"errors":["#)?;
    for (index, error) in errors.iter().enumerate() {
        let comma = if index > 0 { "," } else { "" };
        let (record, line, reason) = (error.record, error.line, error.reason.as_str());
        write!(json, r#"{comma}{{"record":{record},"line":{line},"reason":"{reason}"}}"#)?;
    }
    json.push(']');
    if *unrouted > 0 {
        write!(json, r#","note":"{UNROUTED_NOTE}""#)?;
    }
    if duplicate {
        json.push_str(r#","duplicate":true"#);
    }
    json.push('}');
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{RecordError, RejectReason};

    #[test]
    fn the_account_is_the_contracts() {
        let error = |record, line| RecordError { record, line, reason: RejectReason::MalformedJson };
        let mut receipt = Receipt::default();
        (receipt.received, receipt.accepted, receipt.filtered, receipt.rejected) = (1000, 994, 4, 2);
        receipt.errors = vec![error(17, 18), error(20, 21)];
        assert_eq!(
            account(&receipt, false),
            r#"{"received":1000,"accepted":994,"filtered":4,"unrouted":0,"rejected":2,"errors":[{"record":17,"line":18,"reason":"malformed_json"},{"record":20,"line":21,"reason":"malformed_json"}]}"#
        );
    }

    #[test]
    fn a_note_explains_unrouted_lines_and_a_repeat_says_so() {
        let mut receipt = Receipt::default();
        (receipt.received, receipt.unrouted) = (5, 5);
        let json: serde_json::Value = serde_json::from_str(&account(&receipt, true)).unwrap();
        assert!(json["note"].as_str().unwrap().contains("tail"));
        assert_eq!((&json["duplicate"], &json["errors"]), (&true.into(), &serde_json::json!([])));
    }
}
