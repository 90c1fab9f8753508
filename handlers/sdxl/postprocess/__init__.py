"""Operations on generated images: upscaling, enhancement, safety check."""
