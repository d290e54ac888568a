//! The fields of a message's head, in the order and in the spelling in which they were sent. PURE.
//!
//! A map would lose both, and some programs depend on them: old devices compare names by case, and
//! servers tell browsers from robots by the order.

/// One field. Both parts are free of line ends.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Field {
    name: String,
    value: Vec<u8>,
}

/// The fields of one head, or of trailers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Fields(Vec<Field>);

impl Fields {
    /// Adds a field behind the others. The caller has checked both parts.
    pub(super) fn push(&mut self, name: &str, value: impl Into<Vec<u8>>) {
        self.0.push(Field { name: name.to_owned(), value: value.into() });
    }

    /// Adds a folded line to the last field's value.
    pub(super) fn continue_last(&mut self, value: &[u8]) {
        if let Some(last) = self.0.last_mut() {
            if !last.value.is_empty() && !value.is_empty() {
                last.value.push(b' ');
            }
            last.value.extend_from_slice(value);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The names in their order.
    #[cfg(test)]
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|field| field.name.as_str())
    }

    /// The values of all fields of this name.
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let named = self.0.iter().filter(move |field| field.name.eq_ignore_ascii_case(name));
        named.map(|field| field.value.as_slice())
    }

    /// The value of the first field of this name.
    pub(super) fn get(&self, name: &str) -> Option<&[u8]> {
        self.0
            .iter()
            .find(|field| field.name.eq_ignore_ascii_case(name))
            .map(|field| field.value.as_slice())
    }

    /// The items of a comma-separated list (RFC 9110, §5.6.1), of all fields of this name together.
    pub(super) fn tokens<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.all(name)
            .filter_map(|value| std::str::from_utf8(value).ok())
            .flat_map(|value| value.split(','))
            .map(|token| token.trim_matches([' ', '\t']))
            .filter(|token| !token.is_empty())
    }

    /// Whether such a list has this item.
    pub(super) fn has_token(&self, name: &str, token: &str) -> bool {
        self.tokens(name).any(|found| found.eq_ignore_ascii_case(token))
    }

    /// Removes all fields of this name.
    pub(super) fn remove(&mut self, name: &str) {
        self.0.retain(|field| !field.name.eq_ignore_ascii_case(name));
    }

    /// Gives the first field of this name another value, and removes the others; adds one if there
    /// is none.
    pub(super) fn set(&mut self, name: &str, value: impl Into<Vec<u8>>) {
        let is_named = |field: &Field| field.name.eq_ignore_ascii_case(name);
        match self.0.iter().position(is_named) {
            Some(first) => {
                self.0[first].value = value.into();
                let mut at = 0;
                self.0.retain(|field| {
                    at += 1;
                    at - 1 == first || !is_named(field)
                });
            }
            None => self.push(name, value),
        }
    }

    /// The same before all others if there is none of this name.
    pub(super) fn set_first(&mut self, name: &str, value: impl Into<Vec<u8>>) {
        if self.get(name).is_none() {
            self.0.insert(0, Field { name: name.to_owned(), value: value.into() });
        } else {
            self.set(name, value);
        }
    }

    /// Writes the fields and the empty line behind them.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        for Field { name, value } in &self.0 {
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b": ");
            out.extend_from_slice(value);
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(list: &[(&str, &str)]) -> Fields {
        let mut fields = Fields::default();
        list.iter().for_each(|(name, value)| fields.push(name, *value));
        fields
    }

    fn written(fields: &Fields) -> String {
        let mut out = Vec::new();
        fields.write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn order_and_spelling_are_kept() {
        let mut fields = fields(&[("hOST", "a"), ("X-b", "1"), ("x-A", "2"), ("X-B", "3")]);
        fields.set("Host", "new");
        assert_eq!(written(&fields), "hOST: new\r\nX-b: 1\r\nx-A: 2\r\nX-B: 3\r\n\r\n");
        fields.set("x-b", "4");
        assert_eq!(written(&fields), "hOST: new\r\nX-b: 4\r\nx-A: 2\r\n\r\n");
        fields.remove("HOST");
        fields.set_first("Host", "h");
        fields.set_first("x-a", "5");
        assert_eq!(written(&fields), "Host: h\r\nX-b: 4\r\nx-A: 5\r\n\r\n");
    }

    #[test]
    fn a_list_may_be_spread_over_fields() {
        let fields = fields(&[("Connection", "a, ,b"), ("x", "c"), ("connection", " C\t")]);
        assert_eq!(fields.tokens("connection").collect::<Vec<_>>(), ["a", "b", "C"]);
        assert!(fields.has_token("Connection", "c") && !fields.has_token("Connection", "d"));
    }
}
