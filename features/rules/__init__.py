"""Rules of the business: what may be in a list, said in a small subset of CEL.

An expression is parsed by `parse`, checked and compiled by `filters`, and evaluated over the
catalogue as columns of `table`: a truth value for each item, all at once.

    allowed = compile_filter("item.price < 50 && 'shoes' in item.category").mask(table.view())

CEL is the Common Expression Language (https://cel.dev). What an expression cannot decide about an
item (it asks for an attribute that the item lacks) is an error in CEL; such an item is not allowed.

Errors:
    HeadwaterError
    └── RuleError: an expression cannot be used; it has the column where the fault is
"""
