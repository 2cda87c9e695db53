// SPDX-License-Identifier: Apache-2.0
//! Times in UTC as RFC 3339 writes them, to and from the time since the epoch.
//!
//! Days become a date by counting in years that begin in March: then the leap day is the last of a year,
//! and months have lengths that a line through them gives (153 days in five).

use std::time::Duration;

const DAYS_FROM_0000_03_01: u64 = 719_468;
const DAYS_IN_400_YEARS: u64 = 146_097;
const DAY_S: u64 = 86_400;

/// In whole seconds.
pub fn format(since_epoch: Duration) -> String {
    let seconds = since_epoch.as_secs();
    let days = seconds / DAY_S + DAYS_FROM_0000_03_01;
    let (era, day) = (days / DAYS_IN_400_YEARS, days % DAYS_IN_400_YEARS);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (year, month) = if month < 10 {
        (year, month + 3)
    } else {
        (year + 1, month - 9)
    };
    let year = era * 400 + year;
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// With any fraction of a second; nothing if it is something else, or of another time zone.
pub fn parse(text: &str) -> Option<Duration> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let [year, month, day] = numbers(date, '-')?;
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let [hour, minute, second] = numbers(time, ':')?;
    let possible = (1970..10_000).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && hour < 24
        && minute < 60
        && second <= 60;
    if !possible || !fraction.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let (era, year) = (year / 400, year % 400);
    let days =
        era * DAYS_IN_400_YEARS + 365 * year + year / 4 - year / 100 + (153 * month + 2) / 5 + day
            - 1
            - DAYS_FROM_0000_03_01;
    let whole = Duration::from_secs(days * DAY_S + hour * 3600 + minute * 60 + second);
    let fraction: f64 = format!("0.{fraction}").parse().ok()?;
    Some(whole + Duration::from_secs_f64(fraction))
}

fn numbers<const N: usize>(text: &str, between: char) -> Option<[u64; N]> {
    let numbers: Option<Vec<u64>> = text.split(between).map(|word| word.parse().ok()).collect();
    numbers?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_calendar_is_right_both_ways() {
        let check = |seconds, text| {
            let time = Duration::from_secs(seconds);
            assert_eq!(format(time), text);
            assert_eq!(parse(text), Some(time), "{text}");
        };
        check(0, "1970-01-01T00:00:00Z");
        check(951_782_399, "2000-02-28T23:59:59Z");
        check(951_782_400, "2000-02-29T00:00:00Z");
        check(951_868_800, "2000-03-01T00:00:00Z");
        check(1_798_761_599, "2026-12-31T23:59:59Z");
        check(4_107_542_400, "2100-03-01T00:00:00Z");
    }

    #[test]
    fn fractions_are_read() {
        let time = parse("1970-01-01T00:00:01.250000Z").unwrap();
        assert_eq!(time, Duration::from_millis(1250));
    }

    #[test]
    fn what_is_no_time_in_utc_is_refused() {
        for text in [
            "",
            "Z",
            "1970-01-01",
            "1970-01-01T00:00:00",
            "1970-01-01T00:00:00+01:00",
            "1970-13-01T00:00:00Z",
            "1970-01-00T00:00:00Z",
            "1969-12-31T00:00:00Z",
            "1970-01-01T24:00:00Z",
            "1970-01-01T00:00:00.-1Z",
            "1970-01-01T00:00Z",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
