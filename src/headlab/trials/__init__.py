"""From a document that says what is claimed to a record that says what was found."""
