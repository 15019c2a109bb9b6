//! The four derives over structs with named fields.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::{Data, DeriveInput, Error, Expr, Fields, Ident, Lit, LitStr, Result, Token, Type};

/// One field, with what its attribute says.
struct Field<'a> {
    ident: &'a Ident,
    ty: &'a Type,
    name: String,
    optional: bool,
    default: Option<Lit>,
    /// of a state: `default`, or `default = …`
    state_default: Option<Option<Expr>>,
}

/// The fields of a struct; `attribute` may hold the named `keys`.
fn fields<'a>(item: &'a DeriveInput, attribute: &str, keys: &[&str]) -> Result<Vec<Field<'a>>> {
    let Data::Struct(data) = &item.data else {
        return Err(Error::new(item.ident.span(), "only a struct with named fields can be derived from"));
    };
    let Fields::Named(named) = &data.fields else {
        return Err(Error::new(item.ident.span(), "the fields need names: they become columns or options"));
    };
    if let Some(parameter) = item.generics.type_params().next() {
        return Err(Error::new(parameter.span(), "type parameters are not supported: columns have fixed types"));
    }
    let mut out: Vec<Field<'_>> = Vec::new();
    for field in &named.named {
        let Some(ident) = &field.ident else { continue };
        let name = ident.unraw().to_string();
        let mut new = Field { ident, ty: &field.ty, name, optional: false, default: None, state_default: None };
        for attr in field.attrs.iter().filter(|a| a.path().is_ident(attribute)) {
            attr.parse_nested_meta(|meta| {
                let key = meta.path.get_ident().map(Ident::to_string).unwrap_or_default();
                if !keys.contains(&key.as_str()) {
                    return Err(meta.error(format!("unknown attribute; there are: {}", keys.join(", "))));
                }
                match key.as_str() {
                    "name" => new.name = meta.value()?.parse::<LitStr>()?.value(),
                    "optional" => new.optional = true,
                    _ if attribute == "state" => {
                        new.state_default = Some(match meta.input.peek(Token![=]) {
                            true => Some(meta.value()?.parse()?),
                            false => None,
                        });
                    }
                    _ => new.default = Some(meta.value()?.parse()?),
                }
                Ok(())
            })?;
        }
        if out.iter().any(|f| f.name == new.name) {
            return Err(Error::new(ident.span(), format!("there are two fields named `{}`", new.name)));
        }
        out.push(new);
    }
    Ok(out)
}

fn is_option(ty: &Type) -> bool {
    match ty {
        Type::Path(p) => p.path.segments.last().is_some_and(|s| s.ident == "Option"),
        // what a `macro_rules!` has taken as a type
        Type::Group(group) => is_option(&group.elem),
        _ => false,
    }
}

pub fn input(item: &DeriveInput) -> Result<TokenStream> {
    let fields = fields(item, "input", &["name", "optional"])?;
    let mut lifetimes = item.generics.lifetimes();
    let lifetime = lifetimes.next();
    if let Some(second) = lifetimes.next() {
        return Err(Error::new(second.span(), "an input row has one lifetime: that of the batch"));
    }
    if let Some(field) = fields.iter().find(|f| f.optional && !is_option(f.ty)) {
        return Err(Error::new(field.ty.span(), "a column that the input may lack needs an Option"));
    }
    let name = &item.ident;
    let (row, arguments) = match lifetime {
        Some(l) => (l.lifetime.clone(), quote!(<#l>)),
        None => (syn::Lifetime::new("'__row", name.span()), quote!()),
    };
    let readers = fields.iter().map(|f| {
        let ty = f.ty;
        quote_spanned!(ty.span()=> <#ty as ::millrace_plugin::input::InputField<#row>>::Reader)
    });
    let wanted = fields.iter().map(|Field { ty, name, optional, .. }| {
        let field = quote_spanned!(ty.span()=> <#ty as ::millrace_plugin::input::InputField<#row>>);
        quote! {
            ::millrace_plugin::column::Wanted {
                field: ::millrace_plugin::column::Field::new(#name, #field::TYPE, #field::NULLABLE),
                optional: #optional,
            }
        }
    });
    let count = fields.len();
    let opens = fields.iter().enumerate().map(|(i, Field { ty, name, .. })| {
        quote_spanned! {ty.span()=>
            <#ty as ::millrace_plugin::input::InputField<#row>>::open(
                columns.get(#i).copied().unwrap_or(::millrace_plugin::column::ColumnRef::MISSING), rows,
            ).map_err(|e| ::millrace_plugin::column::Error::Input(::std::format!("column `{}` {e}", #name)))?
        }
    });
    let gets = fields.iter().enumerate().map(|(i, Field { ident, ty, .. })| {
        let i = syn::Index::from(i);
        quote_spanned!(ty.span()=> #ident: <#ty as ::millrace_plugin::input::InputField<#row>>::get(&reader.#i, row))
    });
    Ok(quote! {
        #[automatically_derived]
        impl<#row> ::millrace_plugin::input::InputRow<#row> for #name #arguments {
            type Reader = (#(#readers,)*);
            fn wanted() -> ::std::vec::Vec<::millrace_plugin::column::Wanted> {
                ::std::vec![#(#wanted),*]
            }
            fn open(
                columns: &[::millrace_plugin::column::ColumnRef<#row>], rows: usize,
            ) -> ::std::result::Result<Self::Reader, ::millrace_plugin::column::Error> {
                if columns.len() != #count {
                    return ::std::result::Result::Err(::millrace_plugin::column::Error::Input(
                        ::std::format!("{} columns came, {} were wanted", columns.len(), #count),
                    ));
                }
                ::std::result::Result::Ok((#(#opens,)*))
            }
            #[inline]
            fn get(reader: &Self::Reader, row: usize) -> Self {
                Self { #(#gets),* }
            }
        }
    })
}

/// States and results own their values.
fn no_lifetimes(item: &DeriveInput) -> Result<()> {
    match item.generics.lifetimes().next() {
        Some(l) => Err(Error::new(l.span(), "it outlives the batch, so it cannot borrow from it: use String")),
        None => Ok(()),
    }
}

/// What stands above the struct of a state.
#[derive(Default)]
struct StateRules {
    drops: Vec<LitStr>,
    any_config: bool,
}

fn state_rules(item: &DeriveInput, fields: &[Field<'_>]) -> Result<StateRules> {
    let mut rules = StateRules::default();
    for attr in item.attrs.iter().filter(|a| a.path().is_ident("state")) {
        attr.parse_nested_meta(|meta| {
            if meta.path.is_ident("any_config") {
                rules.any_config = true;
                return Ok(());
            }
            if !meta.path.is_ident("drops") {
                return Err(meta.error("unknown attribute; there are: drops, any_config"));
            }
            if !meta.input.peek(syn::token::Paren) {
                return Err(meta.error("write `drops(\"old_field\")`"));
            }
            let names;
            syn::parenthesized!(names in meta.input);
            rules.drops.extend(names.parse_terminated(|input| input.parse::<LitStr>(), Token![,])?);
            Ok(())
        })?;
    }
    match rules.drops.iter().find(|name| fields.iter().any(|f| f.name == name.value())) {
        Some(kept) => Err(Error::new(kept.span(), format!("`{}` is a field of this state", kept.value()))),
        None => Ok(rules),
    }
}

/// A value of an author's own choice is in every row, and a group with a large set has several.
const SPLIT_DEFAULT: &str = "this state has a set, so that a group may have several rows, each with this default, which are \
    merged: write `#[state(default)]`, then it is what `new` gives";

pub fn state(item: &DeriveInput) -> Result<TokenStream> {
    let fields = fields(item, "state", &["name", "default"])?;
    no_lifetimes(item)?;
    let StateRules { drops, any_config } = state_rules(item, &fields)?;
    let name = &item.ident;
    let tys: Vec<TokenStream> = fields
        .iter()
        .map(|f| {
            let ty = f.ty;
            quote_spanned!(ty.span()=> <#ty as ::millrace_plugin::state::StateField>)
        })
        .collect();
    let idents: Vec<&Ident> = fields.iter().map(|f| f.ident).collect();
    let names: Vec<&String> = fields.iter().map(|f| &f.name).collect();
    let has_defaults = fields.iter().map(|f| f.state_default.is_some());
    let adopted = fields.iter().zip(&tys).map(|(Field { ident, ty, name, state_default, .. }, field)| {
        let adopt = quote!(#field::adopt(columns, row, &empty.#ident).map_err(|stop| stop.within(#name))?);
        let default = match state_default {
            None => return quote!({ lacks.next(); #adopt }),
            Some(None) => quote!(empty.#ident),
            Some(Some(value)) => quote_spanned!(value.span()=> { let default: #ty = #value; default }),
        };
        quote!(if lacks.next().unwrap_or_default() { #default } else { #adopt })
    });
    let chosen = fields.iter().filter_map(|f| f.state_default.as_ref()?.as_ref());
    let never_split = chosen.map(|value| {
        quote_spanned!(value.span()=> const _: () = ::std::assert!(!(false #(|| #tys::SPLITS)*), #SPLIT_DEFAULT);)
    });
    Ok(quote! {
        #(#never_split)*

        #[automatically_derived]
        impl ::millrace_plugin::state::State for #name {
            const HEAP: bool = false #(|| #tys::HEAP)*;
            fn fields() -> ::std::vec::Vec<::millrace_plugin::column::Field> {
                let mut out = ::std::vec::Vec::new();
                #(#tys::fields(#names, &mut out);)*
                out
            }
            fn export(
                &self, empty: &Self, part: &mut ::millrace_plugin::state::Part,
                columns: &mut ::std::slice::IterMut<'_, ::millrace_plugin::column::Column>,
            ) {
                let first = part.is_first();
                #(#tys::export(if first || #tys::SPLITS { &self.#idents } else { &empty.#idents }, part, columns);)*
            }
            fn import(
                columns: &mut ::std::slice::Iter<'_, ::millrace_plugin::column::ColumnRef<'_>>, row: usize,
            ) -> ::std::result::Result<Self, ::millrace_plugin::column::Error> {
                ::std::result::Result::Ok(Self { #(#idents: #tys::import(columns, row)?),* })
            }
            fn heap_bytes(&self) -> usize {
                0 #(+ #tys::heap_bytes(&self.#idents))*
            }
            fn rules() -> ::millrace_plugin::migrate::Rules {
                let mut fields = ::std::vec::Vec::new();
                #({
                    let mut columns = ::std::vec::Vec::new();
                    #tys::fields(#names, &mut columns);
                    fields.push(::millrace_plugin::migrate::FieldRule {
                        name: #names, columns, has_default: #has_defaults,
                    });
                })*
                ::millrace_plugin::migrate::Rules { fields, drops: &[#(#drops),*], any_config: #any_config }
            }
            fn adopt(
                columns: &mut ::std::slice::Iter<'_, ::millrace_plugin::column::ColumnRef<'_>>, row: usize,
                lacks: &[bool], empty: Self,
            ) -> ::std::result::Result<Self, ::millrace_plugin::migrate::Stop> {
                let mut lacks = lacks.iter().copied();
                let _ = (&columns, row, &mut lacks, &empty);
                ::std::result::Result::Ok(Self { #(#idents: #adopted),* })
            }
        }
    })
}

pub fn output(item: &DeriveInput) -> Result<TokenStream> {
    let fields = fields(item, "output", &["name"])?;
    no_lifetimes(item)?;
    let name = &item.ident;
    let columns = fields.iter().map(|Field { ty, name, .. }| {
        let field = quote_spanned!(ty.span()=> <#ty as ::millrace_plugin::output::OutputField>);
        quote!(::millrace_plugin::column::Field::new(#name, #field::TYPE, #field::NULLABLE))
    });
    let pushes = fields.iter().map(|Field { ident, ty, .. }| {
        quote_spanned! {ty.span()=>
            if let ::std::option::Option::Some(column) = columns.next() {
                <#ty as ::millrace_plugin::output::OutputField>::push(&self.#ident, column);
            }
        }
    });
    Ok(quote! {
        #[automatically_derived]
        impl ::millrace_plugin::output::OutputRow for #name {
            fn fields() -> ::std::vec::Vec<::millrace_plugin::column::Field> {
                ::std::vec![#(#columns),*]
            }
            fn push(&self, columns: &mut ::std::slice::IterMut<'_, ::millrace_plugin::column::Column>) {
                #(#pushes)*
            }
        }
    })
}

pub fn config(item: &DeriveInput) -> Result<TokenStream> {
    let fields = fields(item, "config", &["name", "default"])?;
    no_lifetimes(item)?;
    let name = &item.ident;
    let names: Vec<&String> = fields.iter().map(|f| &f.name).collect();
    let required = fields.iter().filter(|f| f.default.is_none() && !is_option(f.ty)).map(|f| &f.name);
    let json = quote!(::millrace_plugin::export::serde_json);
    let default = |f: &Field<'_>| match &f.default {
        Some(literal) => quote!(::std::option::Option::Some(#json::json!(#literal))),
        None => quote!(::std::option::Option::None),
    };
    let properties = fields.iter().map(|f| {
        let (ty, default) = (f.ty, default(f));
        quote_spanned!(ty.span()=> ::millrace_plugin::config::property::<#ty>(#default))
    });
    let parses = fields.iter().map(|f| {
        let (ident, ty, name, default) = (f.ident, f.ty, &f.name, default(f));
        quote_spanned!(ty.span()=> #ident: ::millrace_plugin::config::option::<#ty>(options, #name, #default)?)
    });
    Ok(quote! {
        #[automatically_derived]
        impl ::millrace_plugin::config::Config for #name {
            fn schema() -> #json::Value {
                let mut properties = #json::Map::new();
                #(properties.insert(::std::string::String::from(#names), #properties);)*
                ::millrace_plugin::config::object(#json::Value::Object(properties), &[#(#required),*])
            }
            fn parse(
                options: &#json::Map<::std::string::String, #json::Value>,
            ) -> ::std::result::Result<Self, ::std::string::String> {
                ::millrace_plugin::config::refuse_unknown(options, &[#(#names),*])?;
                ::std::result::Result::Ok(Self { #(#parses),* })
            }
        }
    })
}
