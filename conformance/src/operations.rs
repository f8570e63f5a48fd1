//! What a running process says on its operations side: health and metrics.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Status and body of a GET there.
///
/// # Errors
/// Nobody answers.
pub fn get(address: &str, path: &str) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let text = String::from_utf8_lossy(&answer).into_owned();
    let status = text.split_whitespace().nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    Ok((status, text.split_once("\r\n\r\n").map_or(String::new(), |(_, body)| body.to_owned())))
}

/// Sum of a metric over its labels in what `/metrics` answered, 0 where it has no sample.
pub fn metric(text: &str, name: &str) -> f64 {
    text.lines()
        .filter(|l| l.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{'])))
        .filter_map(|l| l.rsplit_once(' ')?.1.parse::<f64>().ok())
        .sum()
}

/// Counts of a histogram's buckets, summed over its labels: upper bounds in order, the last one infinite, and how many were at most that.
pub fn buckets(text: &str, name: &str) -> Vec<(f64, f64)> {
    let mut out: Vec<(f64, f64)> = Vec::new();
    for line in text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix("_bucket{")) {
        let bound = line.split("le=\"").nth(1).and_then(|rest| rest.split('"').next());
        let bound = bound.and_then(|text| if text == "+Inf" { Some(f64::INFINITY) } else { text.parse().ok() });
        let count = line.rsplit_once(' ').and_then(|(_, count)| count.parse::<f64>().ok());
        let (Some(bound), Some(count)) = (bound, count) else { continue };
        match out.iter_mut().find(|(known, _)| *known == bound) {
            Some((_, sum)) => *sum += count,
            None => out.push((bound, count)),
        }
    }
    out.sort_by(|a, b| a.0.total_cmp(&b.0));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_and_buckets_are_summed_over_their_labels() {
        let text = "# HELP a b\na{k=\"x\"} 2\na{k=\"y\"} 3.5\nab 100\nh_bucket{k=\"x\",le=\"0.1\"} 1\nh_bucket{k=\"y\",le=\"0.1\"} 2\n\
                    h_bucket{k=\"x\",le=\"+Inf\"} 4\nh_sum 7\n";
        assert_eq!(metric(text, "a"), 5.5);
        assert_eq!(metric(text, "h"), 0.0);
        assert_eq!(buckets(text, "h"), [(0.1, 3.0), (f64::INFINITY, 4.0)]);
    }
}
