//! Makes a value of any type that can be deserialized, by being the deserializer it asks.
//!
//! The type says what it wants (a string, a sequence, one of these variants) and a [`Source`] decides: at random for the
//! round-trip tests, in a fixed way for the golden ones. A message added to the wire is covered without a line here.

use serde::de::{self, DeserializeSeed, EnumAccess, IntoDeserializer, SeqAccess, VariantAccess, Visitor};

/// Who decides.
pub enum Source {
    /// xorshift64*; sequences of 0 to 3, now and then an extreme number.
    Random(u64),
    /// 1, 2, 3 ...; `Some`; sequences of 2; the outermost enum takes `variant`, those inside their first.
    Fixed { variant: u32, next: u64, enums: u32 },
}

/// The names of the outermost enum's variants, once a value was made.
#[derive(Default)]
pub struct Seen {
    pub variants: &'static [&'static str],
    depth: u32,
}

pub struct Generator<'a> {
    pub source: &'a mut Source,
    pub seen: &'a mut Seen,
}

#[derive(Debug)]
pub struct Refused(String);

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

impl de::Error for Refused {
    fn custom<T: std::fmt::Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

impl Source {
    fn number(&mut self) -> u64 {
        match self {
            Self::Fixed { next, .. } => {
                *next += 1;
                *next
            }
            Self::Random(state) => {
                *state ^= *state >> 12;
                *state ^= *state << 25;
                *state ^= *state >> 27;
                let drawn = state.wrapping_mul(0x2545_F491_4F6C_DD1D);
                match drawn % 8 {
                    0 => 0,
                    1 => u64::MAX,
                    _ => drawn,
                }
            }
        }
    }

    fn length(&mut self) -> usize {
        match self {
            Self::Fixed { .. } => 2,
            Self::Random(_) => (self.number() % 4) as usize,
        }
    }

    fn text(&mut self) -> String {
        match self {
            Self::Fixed { .. } => format!("text-{}", self.number()),
            Self::Random(_) => (0..self.length()).map(|_| char::from_u32(self.number() as u32 % 0xD800).unwrap_or('?')).collect(),
        }
    }
}

impl<'a> Generator<'a> {
    fn inner(&mut self) -> Generator<'_> {
        Generator { source: &mut *self.source, seen: &mut *self.seen }
    }
}

struct Items<'g, 'a> {
    generator: &'g mut Generator<'a>,
    left: usize,
}

impl<'de> SeqAccess<'de> for Items<'_, '_> {
    type Error = Refused;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Refused> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        seed.deserialize(self.generator.inner()).map(Some)
    }
}

struct Variant<'g, 'a> {
    generator: &'g mut Generator<'a>,
    index: u32,
}

impl<'de, 'g, 'a> EnumAccess<'de> for Variant<'g, 'a> {
    type Error = Refused;
    type Variant = Items<'g, 'a>;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self::Variant), Refused> {
        let value = seed.deserialize(IntoDeserializer::<Refused>::into_deserializer(self.index))?;
        Ok((value, Items { generator: self.generator, left: 0 }))
    }
}

impl<'de> VariantAccess<'de> for Items<'_, '_> {
    type Error = Refused;

    fn unit_variant(self) -> Result<(), Refused> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Refused> {
        seed.deserialize(self.generator.inner())
    }

    fn tuple_variant<V: Visitor<'de>>(mut self, len: usize, visitor: V) -> Result<V::Value, Refused> {
        self.left = len;
        visitor.visit_seq(self)
    }

    fn struct_variant<V: Visitor<'de>>(mut self, fields: &'static [&'static str], visitor: V) -> Result<V::Value, Refused> {
        self.left = fields.len();
        visitor.visit_seq(self)
    }
}

macro_rules! numbers {
    ($($method:ident $visit:ident $repr:ty),*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
            visitor.$visit(self.source.number() as $repr)
        })*
    };
}

impl<'de> de::Deserializer<'de> for Generator<'_> {
    type Error = Refused;

    numbers! {
        deserialize_u8 visit_u8 u8, deserialize_u16 visit_u16 u16, deserialize_u32 visit_u32 u32, deserialize_u64 visit_u64 u64,
        deserialize_i8 visit_i8 i8, deserialize_i16 visit_i16 i16, deserialize_i32 visit_i32 i32, deserialize_i64 visit_i64 i64
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        visitor.visit_bool(self.source.number() % 2 == 1)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        visitor.visit_string(self.source.text())
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        visitor.visit_string(self.source.text())
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        visitor.visit_byte_buf(self.source.text().into_bytes())
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.deserialize_bytes(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Refused> {
        let some = matches!(self.source, Source::Fixed { .. }) || self.source.number() % 2 == 1;
        if some { visitor.visit_some(self.inner()) } else { visitor.visit_none() }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(mut self, _: &'static str, visitor: V) -> Result<V::Value, Refused> {
        visitor.visit_newtype_struct(self.inner())
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        visitor.visit_unit()
    }

    fn deserialize_seq<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Refused> {
        let left = self.source.length();
        visitor.visit_seq(Items { generator: &mut self, left })
    }

    fn deserialize_tuple<V: Visitor<'de>>(mut self, len: usize, visitor: V) -> Result<V::Value, Refused> {
        visitor.visit_seq(Items { generator: &mut self, left: len })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        mut self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refused> {
        visitor.visit_seq(Items { generator: &mut self, left: fields.len() })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        mut self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refused> {
        if self.seen.depth == 0 {
            self.seen.variants = variants;
        }
        self.seen.depth += 1;
        let drawn = match &mut *self.source {
            Source::Random(_) => self.source.number() as u32,
            Source::Fixed { variant, enums, .. } => {
                *enums += 1;
                if *enums == 1 { *variant } else { 0 }
            }
        };
        let index = drawn % variants.len() as u32;
        visitor.visit_enum(Variant { generator: &mut self, index })
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Refused> {
        Err(de::Error::custom("the wire's types describe themselves"))
    }

    serde::forward_to_deserialize_any! { f32 f64 char unit_struct tuple_struct map identifier ignored_any }
}
