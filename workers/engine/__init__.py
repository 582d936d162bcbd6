"""The engine: step batching on one device. It knows neither queue nor storage."""
