"""Devices and number types that torch computes with, and files of tensors."""
