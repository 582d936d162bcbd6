"""Pictures with captions, labels or maps: read from a folder, drawn and composed, in an order that resumes."""
