//! Readers of single values: what is right is a value of ours, what is wrong is named with its remedy.

use super::reader::{Refusal, found_instead};
use super::spelling::did_you_mean;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;
use toml::de::DeValue;
use zeroize::Zeroizing;

/// A text of 1 to `bytes_max` bytes without control characters.
pub fn text(bytes_max: usize) -> impl Fn(&DeValue<'_>) -> Result<String, Refusal> {
    move |value| {
        let text = string(value)?;
        if text.is_empty() {
            return Err(Refusal::new("is empty", "write a value between the quotes, or remove the key"));
        }
        if text.len() > bytes_max {
            return Err(Refusal::new(format!("has {} bytes", text.len()), format!("shorten it to {bytes_max} bytes")));
        }
        if text.chars().any(char::is_control) {
            return Err(Refusal::new("contains a control character", "remove it"));
        }
        Ok(text.to_owned())
    }
}

/// An absolute path.
pub fn path(value: &DeValue<'_>) -> Result<PathBuf, Refusal> {
    let path = PathBuf::from(text(4095)(value)?);
    if !path.is_absolute() {
        return Err(Refusal::new(
            format!("\"{}\" is not an absolute path", path.display()),
            "begin it with /: the daemon does not run in your directory",
        ));
    }
    Ok(path)
}

/// A network interface's name as the kernel accepts it (`dev_valid_name`).
pub fn interface(value: &DeValue<'_>) -> Result<String, Refusal> {
    let name = string(value)?;
    let remedy = "write the name that `ip link` shows";
    if name.is_empty() || name.len() > 15 {
        return Err(Refusal::new(
            format!("\"{name}\" is no interface name: it has {} bytes, not 1 to 15", name.len()),
            remedy,
        ));
    }
    if name == "."
        || name == ".."
        || name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control())
    {
        return Err(Refusal::new(format!("\"{name}\" is no interface name"), remedy));
    }
    Ok(name.to_owned())
}

pub fn boolean(value: &DeValue<'_>) -> Result<bool, Refusal> {
    value.as_bool().ok_or_else(|| Refusal::new(found_instead(value, "true or false"), "write true or false, unquoted"))
}

/// An integer within `range`.
pub fn integer<T: TryFrom<i64>>(range: RangeInclusive<i64>) -> impl Fn(&DeValue<'_>) -> Result<T, Refusal> {
    move |value| {
        let remedy = format!("choose {} to {}", range.start(), range.end());
        let Some(number) = value.as_integer() else {
            return Err(Refusal::new(found_instead(value, "an integer"), remedy));
        };
        i64::from_str_radix(number.as_str(), number.radix())
            .ok()
            .filter(|number| range.contains(number))
            .and_then(|number| T::try_from(number).ok())
            .ok_or_else(|| Refusal::new(format!("{number} is out of range"), remedy))
    }
}

/// An IPv4 or IPv6 address without prefix.
pub fn address(value: &DeValue<'_>) -> Result<IpAddr, Refusal> {
    let text = string(value)?;
    parse_address(text).ok_or_else(|| {
        let remedy = match text.split_once('/') {
            Some((before, _)) if parse_address(before).is_some() => format!("write \"{before}\", without the prefix"),
            Some(_) | None => "write an address like \"10.77.9.1\" or \"fd00::1\"".to_owned(),
        };
        Refusal::new(format!("\"{text}\" is not an IP address"), remedy)
    })
}

/// An address with its prefix length, `192.0.2.1/24`.
pub fn address_with_prefix(value: &DeValue<'_>) -> Result<(IpAddr, u8), Refusal> {
    let text = string(value)?;
    let Some((address_text, prefix_text)) = text.split_once('/') else {
        return Err(match parse_address(text) {
            Some(address) => Refusal::new(
                format!("\"{text}\" has no prefix length"),
                format!("write the subnet's, like \"{address}/{}\"", if address.is_ipv4() { 24 } else { 64 }),
            ),
            None => not_a_prefix(text),
        });
    };
    let address = parse_address(address_text).ok_or_else(|| not_a_prefix(text))?;
    let prefix_max = if address.is_ipv4() { 32 } else { 128 };
    // `u8::from_str` would take "+24".
    let digits = !prefix_text.is_empty() && prefix_text.bytes().all(|b| b.is_ascii_digit());
    match prefix_text.parse::<u8>() {
        Ok(prefix) if digits && (1..=prefix_max).contains(&prefix) => Ok((address, prefix)),
        Ok(_) | Err(_) => Err(Refusal::new(
            format!("\"{text}\" has the prefix length \"{prefix_text}\""),
            format!("choose 1 to {prefix_max}"),
        )),
    }
}

/// A duration: `"250ms"`, `"5s"`, `"2min"`, or an integer of seconds; `"off"` is `None`.
pub fn duration(range: RangeInclusive<Duration>) -> impl Fn(&DeValue<'_>) -> Result<Option<Duration>, Refusal> {
    move |value| {
        let remedy = format!(
            "write a duration from {:?} to {:?}, like \"250ms\", \"5s\" or \"2min\"",
            range.start(),
            range.end()
        );
        let parsed = match value {
            DeValue::String(text) if text == "off" => return Ok(None),
            DeValue::String(text) => parse_duration(text),
            DeValue::Integer(_) => integer::<u32>(0..=86_400)(value).ok().map(|s| Duration::from_secs(s.into())),
            DeValue::Float(_) | DeValue::Boolean(_) | DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => {
                None
            }
        };
        match parsed {
            Some(duration) if range.contains(&duration) => Ok(Some(duration)),
            Some(duration) => Err(Refusal::new(format!("{duration:?} is out of range"), remedy)),
            None => Err(Refusal::new(found_instead(value, "a duration"), remedy)),
        }
    }
}

/// A duration that cannot be "off".
pub fn fixed(range: RangeInclusive<Duration>) -> impl Fn(&DeValue<'_>) -> Result<Duration, Refusal> {
    let read = duration(range);
    move |value| {
        read(value)?
            .ok_or_else(|| Refusal::new("cannot be \"off\"", "write a duration, or remove the key for the default"))
    }
}

/// One of a few names.
pub fn choice<T: Copy>(names: &'static [(&'static str, T)]) -> impl Fn(&DeValue<'_>) -> Result<T, Refusal> {
    move |value| {
        let text = string(value)?;
        names.iter().find(|(name, _)| *name == text).map(|&(_, choice)| choice).ok_or_else(|| {
            let all = names.iter().map(|(name, _)| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
            let hint = did_you_mean(text, names.iter().map(|(name, _)| *name));
            Refusal::new(
                format!("\"{text}\" is not one of {all}"),
                hint.unwrap_or_else(|| format!("choose one of {all}")),
            )
        })
    }
}

/// Any string.
pub fn string<'v>(value: &'v DeValue<'_>) -> Result<&'v str, Refusal> {
    value.as_str().ok_or_else(|| Refusal::new(found_instead(value, "a string"), "put it in double quotes"))
}

/// A password. What stands in its place is never repeated: a refusal is for the log as well.
pub fn password(value: &DeValue<'_>) -> Result<Zeroizing<String>, Refusal> {
    let text = value.as_str().ok_or_else(|| Refusal::new("is not a string", "put it in double quotes"))?;
    Ok(Zeroizing::new(text.to_owned()))
}

/// An address whose family is what it looks like: an IPv4-mapped IPv6 address never stands on an interface.
pub fn parse_address(text: &str) -> Option<IpAddr> {
    text.parse().ok().filter(|address| match address {
        IpAddr::V4(_) => true,
        IpAddr::V6(v6) => v6.to_ipv4_mapped().is_none(),
    })
}

/// `250ms`, `5s`, `2min`.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit())?;
    let (digits, unit) = text.split_at(unit_at);
    let number: u64 = digits.parse().ok()?;
    match unit.trim_start() {
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "min" => number.checked_mul(60).map(Duration::from_secs),
        _ => None,
    }
}

fn not_a_prefix(text: &str) -> Refusal {
    Refusal::new(
        format!("\"{text}\" is not an address with prefix length"),
        "write it like \"192.0.2.1/24\" or \"2001:db8::1/64\"",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> DeValue<'_> {
        DeValue::parse(text).unwrap().into_inner()
    }

    /// Addresses with prefix: right ones are read, each wrong form is refused with its own message.
    #[test]
    fn prefixes() {
        assert_eq!(address_with_prefix(&value("'192.0.2.1/24'")).unwrap(), ("192.0.2.1".parse().unwrap(), 24));
        assert_eq!(address_with_prefix(&value("'fd00::1/64'")).unwrap(), ("fd00::1".parse().unwrap(), 64));
        let refusals =
            ["'192.0.2.1'", "'192.0.2.1/33'", "'192.0.2.1/+4'", "'192.0.2/24'", "'::ffff:192.0.2.1/96'", "3", "''"]
                .map(|text| address_with_prefix(&value(text)).unwrap_err().message);
        insta::assert_snapshot!(refusals.join("\n"), @r#"
        "192.0.2.1" has no prefix length
        "192.0.2.1/33" has the prefix length "33"
        "192.0.2.1/+4" has the prefix length "+4"
        "192.0.2/24" is not an address with prefix length
        "::ffff:192.0.2.1/96" is not an address with prefix length
        found the integer 3 instead of a string
        "" is not an address with prefix length
        "#);
    }

    /// Durations: units, plain seconds, "off"; what is out of range or has no unit is refused.
    #[test]
    fn durations() {
        let read = duration(Duration::from_millis(10)..=Duration::from_secs(600));
        assert_eq!(read(&value("'250ms'")).unwrap(), Some(Duration::from_millis(250)));
        assert_eq!(read(&value("'2 min'")).unwrap(), Some(Duration::from_secs(120)));
        assert_eq!(read(&value("30")).unwrap(), Some(Duration::from_secs(30)));
        assert_eq!(read(&value("'off'")).unwrap(), None);
        for wrong in
            ["'5'", "'5h'", "'1ms'", "'99999999999999999999s'", "'18446744073709551615min'", "-1", "1.5", "'-5s'"]
        {
            assert!(read(&value(wrong)).is_err(), "{wrong}");
        }
    }

    /// Integers: hexadecimal is read, what does not fit is refused and never wraps.
    #[test]
    fn integers() {
        assert_eq!(integer::<u8>(1..=255)(&value("0xff")).unwrap(), 255);
        for wrong in ["0", "256", "-1", "99999999999999999999", "'3'", "true"] {
            assert!(integer::<u8>(1..=255)(&value(wrong)).is_err(), "{wrong}");
        }
    }

    /// Interface names follow the kernel's rule.
    #[test]
    fn interfaces() {
        assert_eq!(interface(&value("'eth0.100'")).unwrap(), "eth0.100");
        for wrong in ["''", "'a23456789012345x'", "'a/b'", "'eth0:1'", "'a b'", "'..'"] {
            assert!(interface(&value(wrong)).is_err(), "{wrong}");
        }
    }
}
