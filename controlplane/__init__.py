"""Ballast's control plane: what operators decide, and the signed releases that carry it out."""

from controlplane.celery import app as celery_app

__all__ = ["celery_app"]
