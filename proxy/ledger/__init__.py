"""What must not be lost: the journal on the local disk, the tally, and the store."""
