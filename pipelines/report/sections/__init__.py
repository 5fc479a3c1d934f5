"""The sections of the page, one a module: `section(numbers)` gives its markup."""
