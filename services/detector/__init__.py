"""The detector service: takes a picture and phrases, returns boxes with their phrases."""
