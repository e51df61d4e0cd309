"""Pictures: decoding, boxes, masks, polygons, crops, and containers of pictures."""
