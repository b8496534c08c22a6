"""Interruptions, full disks, damaged files and hostile input: does every stage survive them?"""
