"""The detector service: a picture and phrases in, boxes with the phrase they carry out."""
